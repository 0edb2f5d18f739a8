"""
The store of dead letters: their SQL, in schema `ops`, one file per use case. Edge.

*keep*          store what is taken from the dead queue
*queries*       what the API shows; never writes
*move*          drop and restore
*housekeeping*  whose trainings they are about; close, purge
"""

from __future__ import annotations

from services.ops.letters.store.housekeeping import Housekeeping
from services.ops.letters.store.keep import Archiving
from services.ops.letters.store.move import Moving
from services.ops.letters.store.queries import Queries


class Store(Archiving, Queries, Moving, Housekeeping):
    """All use cases on one pool."""
