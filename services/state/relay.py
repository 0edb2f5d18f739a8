"""
The relay: publishes what the outbox (`store.outbox`) holds, for as long as the process runs. Edge.

A stored event is published byte for byte, whichever event it is. It is marked after the broker confirmed it, so it may
be published twice, and late by a relay that was frozen: subscribers keep the highest generation of each user. Several
relays may run; one works at a time. An event that can never be published as it is (`Unpublishable`, such as one that is
too large) is set aside in the table until an operator repairs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from services.state.store import Store
from services.state.store.outbox import Publish, StoredEvent
from shared.contract.headers import trace_id_in
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker import Outgoing
from shared.runtime.periodic import run_periodically

log = structlog.get_logger()

_BATCH: Final = 100
#: Commits of other processes set no event here.
_POLL_SECONDS: Final = 1.0
#: Another relay may have read the outbox before our commit.
_BUSY_SECONDS: Final = 0.2


def publish_to(send: Callable[[Outgoing], Awaitable[None]], topology: Topology) -> Publish:
    """Return a function that publishes stored events by *send*, and logs those that the broker confirmed."""

    async def publish_one(event: StoredEvent) -> None:
        await send(
            Outgoing(
                exchange=event.exchange,
                routing_key=event.routing_key,
                body=event.body,
                headers=event.headers,
                message_type=event.headers.get("ce-type"),
                correlation_id=event.training_id,
                mandatory=(event.exchange, event.routing_key) in topology.routed,
            )
        )
        facts = {
            "routing_key": event.routing_key,
            "training_id": event.training_id,
            "message_id": event.headers.get("ce-id"),
            "user_id": event.user_id,
        }
        if trace_id := trace_id_in(event.headers.get("traceparent")):
            facts["trace_id"] = trace_id
        log.info("event.published", **facts)

    async def publish(events: Sequence[StoredEvent]) -> Sequence[BaseException | None]:
        return await asyncio.gather(*map(publish_one, events), return_exceptions=True)

    return publish


class Relay:
    """Publishes committed events, the oldest first."""

    def __init__(self, store: Store, publish: Publish, *, pause_seconds: float = 1.0) -> None:
        """After a failure wait for about *pause_seconds*, and longer each time."""
        self._store = store
        self._publish = publish
        self._pause_seconds = pause_seconds
        self._delay: str | None = None
        telemetry.delayed.set_function(lambda: self._delay is not None)

    async def check(self) -> str | None:
        """Return why committed events are not published, or None."""
        return self._delay

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish until *stopping* is set; reconnect after every loss of Postgres or RabbitMQ."""
        await run_periodically(
            "relay",
            self._round,
            stopping,
            wake=self._store.outbox_filled,
            first_seconds=self._pause_seconds,
            report=self._set_delay,
        )

    async def _round(self) -> float:
        """Publish one batch; return the seconds until the next."""
        done = await self._store.relay(self._publish, limit=_BATCH)
        if done is None:
            return _BUSY_SECONDS
        telemetry.published.inc(done.published)
        for row in done.unpublishable:
            log.error(
                "outbox.set_aside",
                number=row.number,
                training_id=row.training_id,
                error=row.error.code,
                detail=str(row.error),
                hint="deploy/runbook.md: Events that cannot be published",
            )
        telemetry.unpublishable.set(done.set_aside)
        if done.failures:
            raise done.failures[0]
        return 0.0 if done.published + len(done.unpublishable) == _BATCH else _POLL_SECONDS

    async def _set_delay(self, delay: str | None) -> None:
        self._delay = delay
