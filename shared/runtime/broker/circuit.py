"""
A circuit breaker: a dependency that is down is asked rarely, by one at a time.

While it answers, all work runs at once. After a failure the circuit is open: one piece of work at a time tries again,
after waits that double up to half a minute, and the first answer closes the circuit for all. So an outage costs one
question every half minute, and no delivery's attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.broker.link import is_stray_cancel
from shared.runtime.waiting import jittered_backoff_seconds

log = structlog.get_logger()

T = TypeVar("T")

_FIRST_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 30.0


class NotTried(Exception):  # noqa: N818 (a signal, not an error)
    """The work did not reach the dependency: its end says nothing about it."""


class CircuitBreaker:
    """One for all workers that ask the same dependency."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._failures = 0
        #: The dependency told us not to ask before, by the event loop's clock.
        self._not_before = 0.0
        self._probing = asyncio.Lock()
        #: Why the circuit is open; None while it is closed.
        self.reason: str | None = None

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """
        Run *work* once, as soon as it may run, and return or raise what it does.

        Raises:
            DependencyDown: if *work* does; or if its connection died under it.

        """
        while self.reason is not None:
            async with self._probing:
                if self.reason is not None:
                    await self._wait()
                    return await self._try(work, is_probe=True)
        return await self._try(work, is_probe=False)

    async def _try(self, work: Callable[[], Awaitable[T]], *, is_probe: bool) -> T:
        try:
            result = await _uncanceled(work)
        except DependencyDown as error:
            # All work that began while the circuit was closed fails together: that is one failure, not many.
            if is_probe or self.reason is None:
                self._open(error)
            raise
        except NotTried:
            raise
        except Exception:  # the dependency answered
            if is_probe:
                self._close()
            raise
        if is_probe:
            self._close()
        return result

    def _close(self) -> None:
        log.info("consumer.resumed", queue=self._queue, probes=self._failures)
        self._failures = 0
        self.reason = None

    def _open(self, error: DependencyDown) -> None:
        self._failures += 1
        self.reason = str(error)
        self._not_before = asyncio.get_running_loop().time() + (error.retry_after_seconds or 0.0)
        log.warning("consumer.paused", queue=self._queue, error=error.code, detail=str(error), failures=self._failures)

    async def _wait(self) -> None:
        seconds = jittered_backoff_seconds(self._failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)
        # Never sooner than we were told.
        await asyncio.sleep(max(seconds, self._not_before - asyncio.get_running_loop().time()))


async def _uncanceled(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except asyncio.CancelledError as error:
        if not is_stray_cancel():
            raise
        raise DependencyDown("a connection was lost in the middle of the work") from error
