"""
The store of replays: their SQL, in schema `ops`, one file per use case. Edge.

*session*   the replay's row, and notification of changes
*create*    freeze a selection
*queries*   what the API shows
*steer*     start, pause, resume, cancel
*send*      claim dead letters, record what the broker confirmed; predictions of a dry run; keep the counts
*outcomes*  what state says, and what failed again
*undo*      take swaps back

Locks: every change of a replay's status holds its row. An outcome is one change of one row, so it needs no lock.
"""

from __future__ import annotations

from services.ops.replays.store.create import Creation
from services.ops.replays.store.outcomes import Settling
from services.ops.replays.store.queries import Queries
from services.ops.replays.store.send import Sending
from services.ops.replays.store.steer import Steering
from services.ops.replays.store.undo import Undoing


class Store(Creation, Queries, Steering, Sending, Settling, Undoing):
    """All use cases on one pool."""
