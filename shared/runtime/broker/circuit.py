"""
Circuit breaker: limits calls to a dependency that is down to one probe at a time.

While the circuit is closed, all work runs concurrently. A `DependencyDown` opens it: then one piece of work at a time
probes, after waits that double up to half a minute, and the first success closes the circuit for all. So an outage
costs one call every half minute, and no attempts of any delivery.

Work that goes on for long after its dependency has answered says so (`dependency_answered`): others need not wait for
its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.waiting import jittered_backoff_seconds, without_stray_cancel

log = structlog.get_logger()

T = TypeVar("T")
#: Waits so many seconds; raises NotTried if the work is not wanted any more.
Pause = Callable[[float], Awaitable[None]]

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
        #: Probes take turns, so that work which fails again and again is not the only one.
        self._turn = asyncio.Lock()
        #: The probe that has the turn.
        self._probe: object | None = None
        #: Why the circuit is open; None while it is closed.
        self.reason: str | None = None

    async def call(self, work: Callable[[], Awaitable[T]], pause: Pause) -> T:
        """
        Wait until *work* may run, run it once, and return its result.

        Raises:
            DependencyDown: if *work* raises it, or its connection was lost.
            NotTried: if *pause* or *work* raises it.

        """
        while self.reason is not None:
            await self._turn.acquire()
            if self.reason is not None:
                return await self._probe_with(work, pause)
            self._turn.release()
            await pause(0)  # it may not be wanted any more
        return await self._try(work)

    async def _probe_with(self, work: Callable[[], Awaitable[T]], pause: Pause) -> T:
        probe = self._probe = object()
        probed = _probed.set(self)
        seconds = jittered_backoff_seconds(self._failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)
        try:
            # Not before the time of Retry-After.
            await pause(max(seconds, self._not_before - asyncio.get_running_loop().time()))
            return await self._try(work)
        finally:
            _probed.reset(probed)
            self._end(probe)

    async def _try(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await without_stray_cancel(work())
        except DependencyDown as error:
            # Work that started while the circuit was closed fails together: count one failure.
            if self.reason is None or _probed.get() is self:
                self._open(error)
            raise
        except NotTried:
            raise
        except Exception:
            dependency_answered()
            raise
        dependency_answered()
        return result

    def close(self) -> None:
        """Let all work run, because the dependency has answered."""
        log.info("consumer.resumed", queue=self._queue, probes=self._failures)
        self._failures = 0
        self.reason = None
        if self._probe is not None:
            self._end(self._probe)

    def _end(self, probe: object) -> None:
        if self._probe is probe:
            self._probe = None
            self._turn.release()

    def _open(self, error: DependencyDown) -> None:
        self._failures += 1
        self.reason = str(error)
        self._not_before = asyncio.get_running_loop().time() + (error.retry_after_seconds or 0.0)
        log.warning("consumer.paused", queue=self._queue, error=error.code, detail=str(error), failures=self._failures)


#: The open circuit that the work of this task probes.
_probed: ContextVar[CircuitBreaker | None] = ContextVar("probed", default=None)


def dependency_answered() -> None:
    """Close the circuit that the work of this task probes, if it probes one."""
    circuit = _probed.get()
    if circuit is not None:
        _probed.set(None)
        circuit.close()
