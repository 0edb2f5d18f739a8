"""How does a process publish what may be lost, so that nothing else waits for it?"""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from shared.contract.errors import DependencyDown
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.publisher import Unconfirmed, Unroutable

log = structlog.get_logger()

#: How long to wait for the receipt of a message that may be lost.
LOSSY_SECONDS: Final = 1.0


class _Publisher(Protocol):
    async def publish(self, message: Outgoing) -> None: ...


class Parted:
    """Publishes with confirm; but what only lossy queues get is tried once, and dropped and counted if not taken."""

    def __init__(self, lasting: _Publisher, lossy: _Publisher, topology: Topology) -> None:
        """*lossy* has a connection of its own: one without a receipt in time is closed, with all that is on it."""
        self._lasting = lasting
        self._lossy = lossy
        self._topology = topology
        #: Why the newest lossy message was dropped, or None.
        self._reason: str | None = None
        for error in (Unconfirmed, Unroutable):
            telemetry.dropped.labels(error.code)

    async def publish(self, message: Outgoing) -> None:
        """
        Publish *message*.

        Raises:
            DependencyDown: if the broker did not take it, and it must not be lost.

        """
        if not self._topology.loses(message.exchange, message.routing_key):
            await self._lasting.publish(message)
            return
        try:
            await self._lossy.publish(message)
        except DependencyDown as error:
            self._dropped(message, error)
        else:
            self._reason = None

    async def check(self) -> str | None:
        """Why the newest lossy message was dropped, or None."""
        return self._reason and f"{self._reason}; only reports of progress are dropped"

    def _dropped(self, message: Outgoing, error: DependencyDown) -> None:
        telemetry.dropped.labels(error.code).inc()
        # One line for each outage: a report comes every few seconds of every training.
        if self._reason is None:
            log.warning("progress.dropped", message=message.routing_key, error=error.code, detail=str(error))
        self._reason = str(error)
