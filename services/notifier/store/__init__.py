"""The store: every SQL statement of the notifier, in schema `notifier`. Edge."""

from __future__ import annotations

from services.notifier.store.deliveries import Deliveries
from services.notifier.store.endpoints import Endpoints
from services.notifier.store.reading import Reading
from services.notifier.store.relay import Relaying
from services.notifier.store.resending import Resending


class Store(Deliveries, Endpoints, Reading, Relaying, Resending):
    """All use cases."""
