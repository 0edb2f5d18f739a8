"""
The events log: declares the stream, reports what is wrong with it, and reads it. Edge.

RabbitMQ cannot change a stream's limits. One that was made with other limits than ours is used as it is and reported,
as is one that cannot be declared: no process stops, and no event waits longer than the first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

import aiormq
import structlog

from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.topology import EVENTS_LOG, Topology
from shared.runtime import telemetry
from shared.runtime.broker.declare import TopologyMismatch, answered, declare
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, say
from shared.runtime.broker.message import Delivery
from shared.runtime.periodic import run_periodically
from shared.runtime.settings import TopologySettings
from shared.runtime.waiting import Stopped, unless_stopped

log = structlog.get_logger()

#: The relay waits for the first answer, so a broker that has just started is tried again soon.
_LONGEST_PAUSE_SECONDS: Final = 3.0


async def declare_log(link: Link, topology: Topology) -> str | None:
    """
    Declare the log of *topology* and its bindings; return how an existing one differs, or None.

    Raises:
        BrokerSilent: if the broker does not answer.

    """
    plan = topology.log
    difference = None
    channel = await link.open_channel()
    try:
        await declare(channel, replace(plan, bindings=()))
    except TopologyMismatch as error:
        difference = (
            f"{EVENTS_LOG} was made with other limits than the settings have, and keeps its own: {error.__cause__}. "
            'What to do: "The events log" in deploy/runbook.md'
        )
        channel = await link.open_channel()  # the refusal closed the other
    await declare(channel, Topology((), (), plan.bindings))
    await channel.close()
    return difference


async def _miss_log(link: Link) -> str | None:
    """Return that there is no log; None if there is one, or we may not know."""
    try:
        async with answered(f"look at {EVENTS_LOG}"):
            await (await link.open_channel()).queue_declare(EVENTS_LOG, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return f"there is no {EVENTS_LOG}: `modelswap topology apply`"
    except aiormq.exceptions.ChannelAccessRefused:
        # RabbitMQ 4 shows a queue only to a user who may declare it; 3.10 to every user (seen 2026-11).
        return None
    return None


class NoLog(PermanentError):
    """There is no events log on the broker."""

    code = "no_events_log"


async def read_log(
    link: Link, take: Callable[[Delivery], None], *, offset: str | int | datetime, prefetch: int
) -> None:
    """
    Hand the events of the log to *take* from *offset* on (as `Link.consume` says); more come as they are acked.

    Raises:
        NoLog: if there is none.
        LINK_ERRORS: if the broker does not answer, or refuses.

    """
    try:
        async with answered(f"read {EVENTS_LOG}"):
            await link.consume(EVENTS_LOG, take, prefetch=prefetch, offset=offset)
    except aiormq.exceptions.ChannelNotFoundEntity as error:
        raise NoLog(f"there is no {EVENTS_LOG} on the broker: state makes it, or `modelswap topology apply`") from error


class EventsLog:
    """Keeps the log declared: at the start, and again from time to time, in case it was deleted."""

    def __init__(self, settings: TopologySettings, *, service: str, again_seconds: float = 60.0) -> None:
        """Where a deploy job declares the log, only look whether it is there."""
        self._url = settings.amqp_url.get_secret_value()
        self._name = f"{service} declares {EVENTS_LOG}"
        self._topology = settings.topology
        self._declares = settings.declare_topology
        self._again_seconds = again_seconds
        #: Set once the log is declared, or RabbitMQ has refused that or left it unanswered. What is published before
        #: may be missing in the log.
        self.asked = asyncio.Event()
        self._trouble: str | None = "RabbitMQ has not answered yet"
        telemetry.log_trouble.set_function(lambda: self._trouble is not None)

    async def check(self) -> str | None:
        """Return what is wrong with the log, or None."""
        return self._trouble

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the log declared until *stopping* is set."""
        if not self._declares:
            self.asked.set()

        async def declare_once() -> float:
            with suppress(Stopped):
                self._found(await unless_stopped(stopping, self._declare()))
                self.asked.set()
            return self._again_seconds

        await run_periodically(
            "events_log", declare_once, stopping, longest_seconds=_LONGEST_PAUSE_SECONDS, report=self._report
        )

    async def _declare(self) -> str | None:
        """Declare the log, or look for it; return what is wrong with it, or None."""
        try:
            async with Link.opened(self._url, name=self._name) as link:
                try:
                    return await (declare_log(link, self._topology) if self._declares else _miss_log(link))
                except LINK_ERRORS:
                    if link.is_open:
                        self.asked.set()
                    raise
        except LINK_ERRORS as error:
            raise DependencyDown(say(error)) from error

    def _found(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            log.warning("events_log.trouble", stream=EVENTS_LOG, detail=trouble)
        self._trouble = trouble

    async def _report(self, failure: str | None) -> None:
        if failure is not None:
            self._trouble = failure
