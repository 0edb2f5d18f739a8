"""
Circuit breaker: limits calls to a dependency that is down to one probe at a time.

While the circuit is closed, all work runs concurrently. A `DependencyDown` opens it: then one piece of work at a time
probes, after waits that double up to half a minute, and the first success closes the circuit for all. So an outage
costs one call every half minute, and no attempts of any delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.waiting import jittered_backoff_seconds, without_stray_cancel

log = structlog.get_logger()

T = TypeVar("T")

_FIRST_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 30.0


class NotTried(Exception):
    """The work ended before it called the dependency, so its error says nothing about the dependency."""


class CircuitBreaker:
    """Shared by all workers that use the same dependency."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._failures = 0
        #: No call before this time of the event loop's clock (Retry-After).
        self._not_before = 0.0
        self._probing = asyncio.Lock()
        #: Why the circuit is open; None while it is closed.
        self.reason: str | None = None

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """
        Wait until *work* may run, run it once, and return its result.

        Raises:
            DependencyDown: if *work* raises it, or its connection was lost.

        """
        while self.reason is not None:
            async with self._probing:
                if self.reason is not None:
                    await self._wait()
                    return await self._try(work, is_probe=True)
        return await self._try(work, is_probe=False)

    async def _try(self, work: Callable[[], Awaitable[T]], *, is_probe: bool) -> T:
        try:
            result = await without_stray_cancel(work())
        except DependencyDown as error:
            # Work that started while the circuit was closed fails together: count one failure.
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
        # Not before the time of Retry-After.
        await asyncio.sleep(max(seconds, self._not_before - asyncio.get_running_loop().time()))
