"""
The store of replays: their SQL, in schema `ops`, one file per use case. Edge.

*session*   the replay's row, and notification of changes
*create*    freeze a selection
*queries*   what the API shows
*counts*    count the dead letters of replays at rest, and keep the counts
*steer*     start, pause, resume, cancel
*send*      claim dead letters, record what the broker confirmed
*preview*   predictions of a dry run
*outcomes*  what state says, and what failed again
*undo*      take swaps back
*users*     their models before and after, and what an undo would do

Locks: every change of a replay's status holds its row. An outcome is one change of one row, so it needs no lock.
"""

from __future__ import annotations

from services.ops.replays.store.counts import Counting
from services.ops.replays.store.create import Creation
from services.ops.replays.store.outcomes import Settling
from services.ops.replays.store.preview import Previews
from services.ops.replays.store.queries import Queries
from services.ops.replays.store.send import Sending
from services.ops.replays.store.steer import Steering
from services.ops.replays.store.undo import Undoing
from services.ops.replays.store.users import Users


class Store(Creation, Queries, Counting, Steering, Sending, Previews, Settling, Undoing, Users):
    """All use cases on one pool."""
