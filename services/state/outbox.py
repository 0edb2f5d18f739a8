"""
The relay: publishes events from the outbox for as long as the process runs. Edge.

A stored event is published byte for byte, whichever event it is. It is marked after the broker confirmed it, so it may
be published twice, and late by a relay that was frozen: subscribers keep the highest generation of each user. Several
relays may run; one works at a time. An event that can never be published as it is (`Unpublishable`, such as one that is
too large) is set aside in the table until an operator repairs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import structlog

from shared.contract.errors import DependencyDown
from shared.contract.limits import Unpublishable
from shared.contract.topology import Topology
from shared.contract.trace import trace_id_in
from shared.runtime import telemetry
from shared.runtime.broker import Outgoing
from shared.runtime.broker.link import is_stray_cancel
from shared.runtime.waiting import jittered_backoff_seconds, wait_for_any

log = structlog.get_logger()

_BATCH: Final = 100
#: Commits of other processes set no event here.
_POLL_SECONDS: Final = 1.0
#: Another relay may have read the outbox before our commit.
_BUSY_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
_PRUNE_BATCH: Final = 5000
_PRUNE_EVERY_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the outbox."""

    exchange: str
    routing_key: str
    training_id: str
    user_id: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Round:
    """Result of one round of the relay."""

    published: int
    #: Why others were not published; they are tried again.
    failures: Sequence[BaseException] = ()
    #: Rows that were set aside in this round, and why.
    unpublishable: Mapping[int, Unpublishable] = field(default_factory=dict)
    #: Number of all rows that are set aside.
    set_aside: int = 0


#: Publishes in order; returns one result for each event, None if the broker confirmed it.
Publish: TypeAlias = Callable[[Sequence[StoredEvent]], Awaitable[Sequence[BaseException | None]]]


class Outbox(Protocol):
    """The stored events."""

    outbox_filled: asyncio.Event

    async def relay(self, publish: Publish, *, limit: int) -> Round | None: ...

    async def prune(self, *, limit: int) -> int: ...


class Publisher(Protocol):
    """The broker."""

    async def publish(self, message: Outgoing) -> None: ...


def publish_to(publisher: Publisher, topology: Topology) -> Publish:
    """Return a function that publishes stored events, and logs those that the broker confirmed."""

    async def publish_one(event: StoredEvent) -> None:
        await publisher.publish(_message(event, topology))
        _log_published(event)

    async def publish(events: Sequence[StoredEvent]) -> Sequence[BaseException | None]:
        return await asyncio.gather(*map(publish_one, events), return_exceptions=True)

    return publish


def _message(event: StoredEvent, topology: Topology) -> Outgoing:
    return Outgoing(
        exchange=event.exchange,
        routing_key=event.routing_key,
        body=event.body,
        headers=event.headers,
        message_type=event.headers.get("ce-type"),
        correlation_id=event.training_id,
        mandatory=(event.exchange, event.routing_key) in topology.routed,
    )


def _log_published(event: StoredEvent) -> None:
    facts = {
        "routing_key": event.routing_key,
        "training_id": event.training_id,
        "message_id": event.headers.get("ce-id"),
        "user_id": event.user_id,
    }
    if trace_id := trace_id_in(event.headers.get("traceparent")):
        facts["trace_id"] = trace_id
    log.info("event.published", **facts)


class Relay:
    """Publishes committed events in the order of their commits."""

    def __init__(self, outbox: Outbox, publish: Publish, *, pause_seconds: float = 1.0) -> None:
        """After a failure wait for about *pause_seconds*, and longer each time."""
        self._outbox = outbox
        self._publish = publish
        self._pause_seconds = pause_seconds
        self._failures = 0
        self._delay: str | None = None
        self._prune_at = 0.0
        telemetry.delayed.set_function(lambda: self._delay is not None)

    async def check(self) -> str | None:
        """Return why committed events are not published, or None."""
        return self._delay

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish until *stopping* is set; reconnect after every loss of Postgres or RabbitMQ."""
        while not stopping.is_set():
            self._outbox.outbox_filled.clear()
            seconds = await self._attempt()
            # After a failure, a commit does not shorten the pause.
            wakers = [] if self._failures else [self._outbox.outbox_filled]
            await wait_for_any(stopping, *wakers, seconds=seconds)

    async def _attempt(self) -> float:
        """Run one round; return the seconds until the next."""
        try:
            done = await self._outbox.relay(self._publish, limit=_BATCH)
            await self._prune()
        except DependencyDown as error:
            return self._trouble(error.code, str(error))
        except asyncio.CancelledError:
            if not is_stray_cancel():
                raise
            return self._trouble("connection_lost", "a connection was lost during the round")
        except Exception:
            log.exception("relay.broken")
            return self._trouble("unknown", "an unexpected error, which is logged")
        if done is None:
            return _BUSY_SECONDS
        telemetry.published.inc(done.published)
        self._report(done)
        if done.failures:
            return self._trouble("not_published", str(done.failures[0]), events=len(done.failures))
        if self._failures:
            log.info("relay.resumed", failures=self._failures)
        self._failures, self._delay = 0, None
        return 0.0 if done.published + len(done.unpublishable) == _BATCH else _POLL_SECONDS

    def _report(self, done: Round) -> None:
        """Log the rows that were set aside."""
        for number, refused in done.unpublishable.items():
            log.error(
                "outbox.set_aside",
                number=number,
                error=refused.code,
                detail=str(refused),
                hint="deploy/runbook.md: Events that cannot be published",
            )
        telemetry.unpublishable.set(done.set_aside)

    async def _prune(self) -> None:
        clock = asyncio.get_running_loop().time
        if clock() >= self._prune_at and await self._outbox.prune(limit=_PRUNE_BATCH) < _PRUNE_BATCH:
            self._prune_at = clock() + _PRUNE_EVERY_SECONDS

    def _trouble(self, error: str, detail: str, **facts: int) -> float:
        self._failures += 1
        self._delay = detail
        log.warning("relay.delayed", error=error, detail=detail, failures=self._failures, **facts)
        return jittered_backoff_seconds(self._failures, first=self._pause_seconds, longest=_LONGEST_PAUSE_SECONDS)
