"""Lossy publishing: messages that may be lost are tried once, so that no other message waits for them."""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from shared.contract.errors import DependencyDown
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.publisher import Unconfirmed, Unroutable

log = structlog.get_logger()

#: How long to wait for the confirm of a message that may be lost.
LOSSY_SECONDS: Final = 1.0


class _Publisher(Protocol):
    async def publish(self, message: Outgoing) -> None: ...


class SplitPublisher:
    """Publishes with confirms; a message for lossy queues only is tried once, else dropped and counted."""

    def __init__(self, lasting: _Publisher, lossy: _Publisher, topology: Topology) -> None:
        """*lossy* has its own connection: if a confirm times out, the connection is closed with all its messages."""
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
            DependencyDown: if the broker did not confirm a message that must not be lost.

        """
        if not self._topology.loses(message.exchange, message.routing_key):
            await self._lasting.publish(message)
            return
        try:
            await self._lossy.publish(message)
        except DependencyDown as error:
            telemetry.dropped.labels(error.code).inc()
            # One line per outage: every training reports progress every few seconds.
            if self._reason is None:
                log.warning("progress.dropped", message=message.routing_key, error=error.code, detail=str(error))
            self._reason = str(error)
        else:
            self._reason = None

    async def check(self) -> str | None:
        """Return why the newest lossy message was dropped, or None."""
        return self._reason and f"{self._reason}; only reports of progress are dropped"
