"""Read the events log: from a time, the beginning or the end of it. Edge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.cli.broker import broker_problems
from services.cli.events.heard import Heard, is_of
from services.cli.problem import Problem
from shared.contract.topology import EVENTS_LOG
from shared.runtime.broker import Delivery
from shared.runtime.broker.log_reader import OpenLog, offset_of, opened_log
from shared.runtime.clock import now

FIRST: Final = "first"
NEXT: Final = "next"
_LAST: Final = "last"
_LOOK_SECONDS: Final = 60.0
#: A log that sends nothing in this time is empty: RabbitMQ begins to send some time after it has said that it does.
_EMPTY_SECONDS: Final = 3.0
_NAME: Final = "modelswap events"


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


async def read_to_end(url: str, wanted: Wanted) -> AsyncIterator[Heard]:
    """Yield the *wanted* events that are in the log now, oldest first."""
    newest = await _find_newest(url)
    if newest is None or not wanted.is_late_enough(newest):
        return
    async with _opened(url, wanted.since or FIRST) as log:
        async for delivery in _events(log):
            if wanted.has(delivery):
                yield Heard(delivery)
            if offset_of(delivery) >= offset_of(newest):
                return
    raise Problem(f"RabbitMQ sent nothing more of {EVENTS_LOG} for {_LOOK_SECONDS:g} s", then="type it again")


async def _find_newest(url: str) -> Delivery | None:
    """Return the newest event; None if there is none. RabbitMQ has no request for it."""
    began_at, newest = now(), None
    async with _opened(url, _LAST) as log:
        batch = await log.take(_EMPTY_SECONDS) or await log.rest()
        # Until the end of the log; or, where events never end, until one of after this began.
        while batch:
            newest = batch[-1]
            log.ack(newest)
            batch = [] if (newest.published_at or began_at) > began_at else await log.rest()
    return newest


async def follow(url: str, wanted: Wanted) -> AsyncIterator[Heard]:
    """Yield the *wanted* events from their time on, else those that are published from now on, without an end."""
    async with _opened(url, wanted.since or NEXT) as log:
        while True:
            async for delivery in _events(log):
                if wanted.has(delivery):
                    yield Heard(delivery)


@asynccontextmanager
async def _opened(url: str, offset: str | datetime) -> AsyncIterator[OpenLog]:
    with broker_problems():
        async with opened_log(url, _NAME, offset) as log:
            yield log


async def _events(log: OpenLog) -> AsyncIterator[Delivery]:
    """Yield the next events, until none comes for `_LOOK_SECONDS`."""
    while batch := await log.take(_LOOK_SECONDS):
        for delivery in batch:
            yield delivery
        log.ack(batch[-1])


def _user_of(delivery: Delivery) -> object:
    try:
        return json.loads(delivery.body).get("user_id")
    except (ValueError, RecursionError, AttributeError):
        return None
