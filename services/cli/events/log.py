"""Read the events log: from a time, the beginning or the end of it. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.cli.events.subscription import Heard, broker_problems, deliveries, heard, is_of
from shared.contract.headers import OFFSET
from shared.runtime.broker import Delivery, read_log
from shared.runtime.broker.link import Link
from shared.runtime.clock import now

FIRST: Final = "first"
NEXT: Final = "next"
_LAST: Final = "last"
_PREFETCH: Final = 1000
#: The last chunk is over if nothing comes for so long.
_END_SECONDS: Final = 0.5
#: A log that sends nothing in this time is empty.
_EMPTY_SECONDS: Final = 3.0
_NAME: Final = "modelswap events"


@dataclass(frozen=True, slots=True)
class Logged:
    """One event of the log."""

    offset: int
    delivery: Delivery

    def heard(self) -> Heard:
        return heard(self.delivery)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events of the log are wanted."""

    types: Sequence[str] = ()
    user_id: str | None = None
    event_id: str | None = None
    #: From then on. RabbitMQ begins with a whole chunk, so some that come are older.
    since: datetime | None = None

    def is_late_enough(self, delivery: Delivery) -> bool:
        """Return whether a message was published at *since* or later. Times of messages are whole seconds."""
        published_at = delivery.published_at
        return self.since is None or published_at is None or published_at >= self.since.replace(microsecond=0)

    def has(self, delivery: Delivery) -> bool:
        return (
            self.is_late_enough(delivery)
            and (self.event_id is None or delivery.headers.get("ce-id") == self.event_id)
            and is_of(self.types, delivery.routing_key)
            and (self.user_id is None or _user_of(delivery) == self.user_id)
        )


async def read_to_end(url: str, wanted: Wanted) -> AsyncIterator[Logged]:
    """Yield the *wanted* events that are in the log now, oldest first."""
    newest = await _find_newest(url)
    if newest is None or not wanted.is_late_enough(newest.delivery):
        return
    async with _opened(url, wanted.since or FIRST) as events:
        async for logged in events:
            if wanted.has(logged.delivery):
                yield logged
            if logged.offset >= newest.offset:
                return


async def _find_newest(url: str) -> Logged | None:
    """Return the newest event; None if there is none. RabbitMQ has no request for it."""
    began_at, newest = now(), None
    async with _opened(url, _LAST) as events:
        # The last chunk, until nothing more comes; or, where events never end, until one of after this began.
        with suppress(TimeoutError):
            while newest is None or (newest.delivery.published_at or began_at) <= began_at:
                async with asyncio.timeout(_EMPTY_SECONDS if newest is None else _END_SECONDS):
                    newest = await anext(events)
    return newest


async def follow(url: str, wanted: Wanted) -> AsyncIterator[Logged]:
    """Yield the *wanted* events from their time on, else those that are published from now on, without an end."""
    async with _opened(url, wanted.since or NEXT) as events:
        async for logged in events:
            if wanted.has(logged.delivery):
                yield logged


@asynccontextmanager
async def _opened(url: str, offset: str | datetime) -> AsyncIterator[AsyncIterator[Logged]]:
    with broker_problems():
        link = await Link.open(url, name=_NAME)
    messages: asyncio.Queue[Delivery] = asyncio.Queue()
    try:
        with broker_problems():
            await read_log(link, messages.put_nowait, offset=offset, prefetch=_PREFETCH)
        yield _acked(link, messages)
    finally:
        await link.close()


async def _acked(link: Link, messages: asyncio.Queue[Delivery]) -> AsyncIterator[Logged]:
    """Yield events; ack each when the next is asked for, so that more are sent."""
    async for delivery in deliveries(link, messages):
        offset = delivery.headers.get(OFFSET)
        yield Logged(offset if isinstance(offset, int) else 0, delivery)
        link.ack(delivery)


def _user_of(delivery: Delivery) -> object:
    try:
        return json.loads(delivery.body).get("user_id")
    except (ValueError, AttributeError):
        return None
