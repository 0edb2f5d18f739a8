"""Reads the events log in batches. Edge."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final

from aiormq import spec

from shared.contract.errors import DependencyDown
from shared.contract.headers import OFFSET
from shared.contract.topology import EVENTS_LOG
from shared.runtime.broker.declare import answered
from shared.runtime.broker.events_log import read_log
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, say
from shared.runtime.broker.message import Delivery
from shared.runtime.waiting import wait_for_any

_BATCH: Final = 200
_PREFETCH: Final = 2 * _BATCH


class LogLost(DependencyDown):
    """The connection was lost, or the log was deleted."""

    code = "events_log_lost"


class OpenLog:
    """The log, from some place on."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Take one event from the link."""
        self._waiting.append(delivery)
        self._arrived.set()

    async def take(self, seconds: float) -> Sequence[Delivery]:
        """
        Return the next events as soon as there are some; none if that takes longer than *seconds*.

        Raises:
            LogLost: if there will be no more.

        """
        if not self._waiting:
            self._arrived.clear()
            await wait_for_any(self._arrived, self._link.lost, seconds=seconds)
        return self._arrivals()

    async def rest(self) -> Sequence[Delivery]:
        """
        Return the next events of those that are in the log now, if all before them are acked; none at its end.

        On an ack, RabbitMQ sends all that there is and fits the prefetch, before it answers the next request on the
        channel (seen with 3.10 and 4.3, and in its source, 2026-11).

        Raises:
            LogLost: if there will be no more.
            LINK_ERRORS: if RabbitMQ does not answer.

        """
        if not self._waiting:
            async with answered(f"read on in {EVENTS_LOG}"):
                await self._link.channel.basic_qos(prefetch_count=_PREFETCH)
        return self._arrivals()

    def _arrivals(self) -> Sequence[Delivery]:
        if not self._link.is_open:
            raise LogLost(f"the connection to RabbitMQ was lost, or {EVENTS_LOG} was deleted")
        return [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]

    def ack(self, last: Delivery) -> None:
        """Ask for more in place of all events up to *last*."""
        self._link.send(spec.Basic.Ack(delivery_tag=last.tag, multiple=True))


@asynccontextmanager
async def opened_log(url: str, name: str, offset: str | int | datetime) -> AsyncIterator[OpenLog]:
    """
    Read the log from *offset* on (as `Link.consume` says); operators see the connection's *name* in RabbitMQ.

    Raises:
        NoLog: if there is none.
        DependencyDown: if the broker does not answer, or refuses.

    """
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(Link.opened(url, name=name))
            log = OpenLog(link)
            await read_log(link, log.put, offset=offset, prefetch=_PREFETCH)
        except LINK_ERRORS as error:
            raise DependencyDown(say(error)) from error
        yield log


def offset_of(delivery: Delivery) -> int:
    """Return the place of an event in the log."""
    return int(str(delivery.headers[OFFSET]))
