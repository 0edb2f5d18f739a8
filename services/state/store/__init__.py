"""
The store: every SQL statement of the service, in schema `state`, one file per use case. Edge.

*session*       transactions, locks, idempotency keys
*apply*         a batch of events
*write*         the rows that a decision changes
*progress*      reports of progress
*registration*  new trainings
*orders*        orders about a user's model or a training: rollback, withdrawal, retry of an extraction
*queries*       what the API shows; never writes
*overview*      counts, statistics and search over all trainings; never writes
*timeline*      the rows of a training's timeline; never writes
*snapshot*      pages of all users' models
*outbox*        events to publish, and pruning
*durations*     statistics of how long trainings take
"""

from __future__ import annotations

from typing import Final

from services.state.store.apply import Events
from services.state.store.durations import Durations
from services.state.store.orders import Orders
from services.state.store.outbox import Outbox
from services.state.store.overview import Overview
from services.state.store.progress import ProgressReports
from services.state.store.queries import Queries
from services.state.store.registration import Registrations
from services.state.store.snapshot import Snapshots
from services.state.store.timeline import Timelines

#: The role with the service's few privileges.
ROLE: Final = "modelswap_state"


class Store(Events, ProgressReports, Registrations, Orders, Queries, Overview, Timelines, Snapshots, Outbox, Durations):
    """All use cases on one pool."""
