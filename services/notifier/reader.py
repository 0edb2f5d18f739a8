"""
The reader of the events log: stores the deliveries of each public event, and how far it has read. Edge.

Both are one transaction, so each event is stored once, however often it is read. One process reads; when it ends,
another goes on within seconds. An event that cannot be delivered becomes a dead letter of `modelswap.deliveries`, whose
handler takes it when it is replayed; reading goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Final, NoReturn

import structlog

from services.notifier.message import StoredEvent, stored
from services.notifier.position import Position
from services.notifier.store import Store
from services.notifier.store.reading import Turn
from shared.contract.errors import DependencyDown, Malformed, ModelswapError, code_of
from shared.contract.limits import Unpublishable
from shared.contract.text import clean
from shared.contract.topology import DELIVERIES_QUEUE, EVENTS_LOG
from shared.runtime import telemetry
from shared.runtime.broker import Delivery, Item, LogLost, OpenLog, Outgoing, dead_letter, offset_of, read
from shared.runtime.clock import now
from shared.runtime.logs import log_fact
from shared.runtime.periodic import run_periodically
from shared.runtime.postgres_errors import Conflict
from shared.runtime.session_lock import STAND_BY_SECONDS
from shared.runtime.waiting import Stopped, unless_stopped

log = structlog.get_logger()

#: How often a reader without events checks that it still has the lock.
_CHECK_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.5
#: The last event that was handled is in the log, so RabbitMQ sends it at once.
_SILENT_SECONDS: Final = 10.0

#: Reads the log from an offset or a time on.
Open = Callable[[int | datetime], AbstractAsyncContextManager[OpenLog]]
#: Publishes a message and waits for the confirm.
Publish = Callable[[Outgoing], Awaitable[None]]


class Reader:
    """Reads the log while it is this process's turn."""

    def __init__(
        self, store: Store, open_log: Open, publish: Publish, *, silent_seconds: float = _SILENT_SECONDS
    ) -> None:
        """A log that sends nothing for *silent_seconds* lacks the last event that was handled."""
        self._store = store
        self._open = open_log
        self._publish = publish
        self._silent_seconds = silent_seconds
        self._trouble: str | None = "the events log was not read yet"
        #: Set until an event that was published at this time or later. What cannot be read before it is not ours, or
        #: was set aside already.
        self._begin: datetime | None = None
        #: Publish time of the oldest event at work.
        self._oldest: datetime | None = None
        self._handled, self._dead = (telemetry.deliveries.labels(EVENTS_LOG, end) for end in ("handled", "dead"))
        telemetry.paused.labels(EVENTS_LOG).set_function(lambda: self._trouble is not None)
        telemetry.oldest_delivery.labels(EVENTS_LOG).set_function(self._oldest_seconds)

    async def check(self) -> str | None:
        """Return why no events are read, or None."""
        return self._trouble

    async def check_gap(self) -> str | None:
        """Return which events were lost in the last day, or None."""
        try:
            return await self._store.late_gap()
        except ModelswapError as error:
            return str(error)

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until *stopping* is set; try again after every loss of Postgres or RabbitMQ."""

        async def work() -> float:
            try:
                return await unless_stopped(stopping, self._round())
            except Stopped:
                return 0.0
            except LogLost as error:
                log.warning("events_log.disconnected", detail=str(error))
                return _AGAIN_SECONDS

        await run_periodically("events", work, stopping, report=self._report)

    async def _report(self, trouble: str | None) -> None:
        self._trouble = trouble

    async def _round(self) -> float:
        async with self._store.turn() as turn:
            if turn is not None:
                await self._read(turn)
        return STAND_BY_SECONDS

    async def _read(self, turn: Turn) -> NoReturn:
        """Read from the last event on, for ever."""
        last = await turn.position()
        self._begin = None
        if last.offset is not None:
            async with self._open(last.offset) as events:
                batch = await events.take(self._silent_seconds)
                missed = last.missed_before(_position_of(batch[0])) if batch else None
                if missed is not None:
                    gap = f"{missed} events were deleted from {EVENTS_LOG} before they were read" if missed else None
                    await self._follow(turn, events, batch, last.offset, gap)
        # AMQP's times are whole seconds.
        self._begin = last.time.replace(microsecond=0)
        async with self._open(last.since) as events:
            batch = await self._next(turn, events)
            first, gap = _position_of(batch[0]), None
            if last.offset is not None and first.time > last.time:
                gap = f"{EVENTS_LOG} was made anew: events published from {last.time} to {first.time} may be missing"
            await self._follow(turn, events, batch, -1, gap)

    async def _follow(
        self, turn: Turn, events: OpenLog, batch: Sequence[Delivery], after: int, gap: str | None
    ) -> NoReturn:
        """Store *batch* and all that follows, except those up to offset *after*."""
        if gap is not None:
            telemetry.log_gaps.inc()
            log.error("events_log.gap", detail=gap, hint="deploy/runbook.md: Webhooks were missed")
        while True:
            fresh = [each for each in batch if offset_of(each) > after]
            if fresh:
                self._oldest = fresh[0].published_at
                await self._keep(turn, fresh, gap)
                self._oldest, gap = None, None
            events.ack(batch[-1])
            batch = await self._next(turn, events)

    async def _next(self, turn: Turn, events: OpenLog) -> Sequence[Delivery]:
        self._trouble = None
        while not (batch := await events.take(_CHECK_SECONDS)):
            await turn.check()
        return batch

    async def _keep(self, turn: Turn, batch: Sequence[Delivery], gap: str | None) -> None:
        """Store the deliveries of *batch* in one transaction; if that is impossible, those of each event alone."""
        position = _position_of(batch[-1])
        known = [(item, event) for item in map(read, batch) if (event := await self._stored(item)) is not None]
        try:
            await turn.store([event for _, event in known], position, gap)
        except (DependencyDown, Conflict):
            raise
        except ModelswapError as error:
            if len(known) > 1:
                for item, _ in known:
                    await self._keep(turn, [item.delivery], gap)
                return
            for item, _ in known:
                await self._set_aside(item.delivery, error)
            await turn.store((), position, gap)
            return
        for item, _ in known:
            self._handled.inc()
            if item.envelope is not None:
                log_fact(log, "delivery.handled", item.envelope, item.ids, queue=EVENTS_LOG)

    async def _stored(self, item: Item) -> StoredEvent | None:
        """Return an event as it is stored; None if it is not for webhooks."""
        published_at = item.delivery.published_at
        if self._begin is not None and published_at is not None and published_at >= self._begin:
            self._begin = None
        if item.envelope is None:
            await self._set_aside(item.delivery, item.error)
            return None
        if item.envelope.is_made_up:
            facts = {"queue": EVENTS_LOG, "reason": "made up by modelswap trigger"}
            log_fact(log, "delivery.ignored", item.envelope, item.ids, **facts)
            return None
        try:
            return stored(item.envelope)
        except Malformed as error:
            await self._set_aside(item.delivery, error)
            return None

    async def _set_aside(self, delivery: Delivery, error: Exception | None) -> None:
        """Make *delivery* a dead letter, unless it was published before we began."""
        error = error or Malformed("it cannot be decoded")
        facts = {
            "queue": EVENTS_LOG,
            "offset": offset_of(delivery),
            "routing_key": delivery.routing_key,
            "message_id": delivery.headers.get("ce-id"),
        }
        if self._begin is not None:
            log.info("delivery.ignored", reason="published before the notifier began", error=code_of(error), **facts)
            return
        log.error("delivery.dead_lettered", error=code_of(error), detail=clean(str(error)), **facts)
        self._dead.inc()
        try:
            await self._publish(dead_letter(replace(delivery, queue=DELIVERIES_QUEUE), error, now=now()))
        except Unpublishable as refused:
            log.error("delivery.rejected", error=refused.code, detail=str(refused), **facts)  # noqa: TRY400 (it says it all)

    def _oldest_seconds(self) -> float:
        return 0.0 if self._oldest is None else max((now() - self._oldest).total_seconds(), 0.0)


def _position_of(delivery: Delivery) -> Position:
    """Return the place of an event in the log."""
    said = hashlib.sha256(repr(delivery.headers.get("ce-id")).encode() + b"\n" + delivery.body)
    return Position(delivery.published_at or now(), offset_of(delivery), said.hexdigest())
