"""
Do the events that were committed reach the broker? Edge: publishes the outbox, for as long as the process runs.

An event is marked as published after the broker confirmed it, so it may be published twice, and a relay that was frozen
may publish it late: subscribers keep the highest generation of each user. Several relays may run: one works at a time.

What this version can not read, a newer one has written: it stays in the outbox for that one, and delays nobody. What
can not be published as it is (`Unpublishable`) is set aside in the table until somebody repairs it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from typing import Final, Protocol

import structlog

from services.state.records import Publish, Round
from shared.contract.errors import DependencyDown
from shared.runtime import telemetry
from shared.runtime.broker.link import is_stray_cancel
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_BATCH: Final = 100
#: Another process's commits do not wake us.
_POLL_SECONDS: Final = 1.0
#: The relay at work may have looked before our commit.
_BUSY_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
_PRUNE_BATCH: Final = 5000
_PRUNE_EVERY_SECONDS: Final = 300.0


class Outbox(Protocol):
    """Where committed events wait."""

    outbox_filled: asyncio.Event

    async def relay(self, publish: Publish, *, limit: int, without: Collection[int] = ()) -> Round | None: ...

    async def prune(self, *, limit: int) -> int: ...


class Relay:
    """Publishes what was committed, in the order in which it was."""

    def __init__(self, outbox: Outbox, publish: Publish, *, pause_seconds: float = 1.0) -> None:
        """In trouble, wait for about *pause_seconds*, and longer each time."""
        self._outbox = outbox
        self._publish = publish
        self._pause_seconds = pause_seconds
        self._failures = 0
        self._delay: str | None = None
        self._prune_at = 0.0
        #: Rows that this version can not read. Forgotten at its end: the next one may.
        self._unreadable: set[int] = set()
        telemetry.delayed.set_function(lambda: self._delay is not None)

    async def check(self) -> str | None:
        """What keeps committed events from being published, or None."""
        return self._delay

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish until *stopping* is set, through every loss of Postgres or RabbitMQ."""
        while not stopping.is_set():
            self._outbox.outbox_filled.clear()
            seconds = await self._attempt()
            # In trouble, no commit wakes us: it would only hurry the next failure.
            wakers = [] if self._failures else [self._outbox.outbox_filled]
            await wait_for_any(stopping, *wakers, seconds=seconds)

    async def _attempt(self) -> float:
        """One round; how long to wait until the next."""
        try:
            done = await self._outbox.relay(self._publish, limit=_BATCH, without=self._unreadable)
            await self._prune()
        except DependencyDown as error:
            return self._trouble(error.code, str(error))
        except asyncio.CancelledError:
            if not is_stray_cancel():
                raise
            return self._trouble("connection_lost", "a connection was lost in the middle of the work")
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
        settled = done.published + len(done.unreadable) + len(done.unpublishable)
        return 0.0 if settled == _BATCH else _POLL_SECONDS

    def _report(self, done: Round) -> None:
        """Tell of the rows that are passed over."""
        for number, error in done.unreadable.items():
            log.error(
                "outbox.unreadable",
                number=number,
                detail=str(error),
                hint="it waits in state.outbox for a version of modelswap that can read it",
            )
        for number, refused in done.unpublishable.items():
            log.error(
                "outbox.set_aside",
                number=number,
                error=refused.code,
                detail=str(refused),
                hint="deploy/runbook.md: Events that can not be published",
            )
        self._unreadable |= done.unreadable.keys()
        telemetry.unreadable.set(len(self._unreadable))
        telemetry.unpublishable.set(done.set_aside)

    async def _prune(self) -> None:
        clock = asyncio.get_running_loop().time
        if clock() >= self._prune_at and await self._outbox.prune(limit=_PRUNE_BATCH) < _PRUNE_BATCH:
            self._prune_at = clock() + _PRUNE_EVERY_SECONDS

    def _trouble(self, error: str, detail: str, **facts: int) -> float:
        self._failures += 1
        self._delay = detail
        log.warning("relay.delayed", error=error, detail=detail, failures=self._failures, **facts)
        longest = min(self._pause_seconds * 2.0 ** min(self._failures - 1, 16), _LONGEST_PAUSE_SECONDS)
        return longest * random.random()  # noqa: S311 (jitter, not a secret)
