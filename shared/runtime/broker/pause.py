"""
May the dependency be asked now?

While it is up, everybody may. Once it is down, one at a time may, after a growing wait, and the first success lets
everybody through again. So an outage costs one question every half minute and no delivery's attempts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

from shared.contract.errors import DependencyDown

log = structlog.get_logger()

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 30.0


class Unasked(Exception):  # noqa: N818 (a signal, not an error)
    """Whoever had the turn did not use it: nothing is learned from that."""


class HeldForLong(Exception):  # noqa: N818 (likewise)
    """The dependency is down for longer than whoever asks may wait; *blame* says why, if it is for them alone."""

    def __init__(self, blame: DependencyDown | None = None) -> None:
        super().__init__(blame)
        self.blame = blame


class Pause:
    """One gate for all workers of a consumer."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._failures = 0
        #: Sooner than that we were told not to ask.
        self._not_before = 0.0
        #: Why it is closed; None while the dependency is up.
        self.reason: str | None = None
        self._one = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        """Is the dependency down, as far as is known?"""
        return self.reason is not None

    @asynccontextmanager
    async def turn(self, *, until: float | None = None) -> AsyncIterator[None]:
        """
        Wait for leave to ask, and learn from how the asking ends.

        Raises:
            HeldForLong: if there is none by *until*, by the event loop's clock.

        """
        while self.is_closed:
            async with self._alone(until):
                if self.is_closed:
                    await self._wait(until)
                    with self._learn(probing=True):
                        yield
                    return
        with self._learn(probing=False):
            yield

    @asynccontextmanager
    async def _alone(self, until: float | None) -> AsyncIterator[None]:
        if until is not None and _clock() >= until:
            raise HeldForLong
        try:
            async with asyncio.timeout_at(until):
                await self._one.acquire()
        except TimeoutError:
            raise HeldForLong from None
        try:
            yield
        finally:
            self._one.release()

    @contextmanager
    def _learn(self, *, probing: bool) -> Iterator[None]:
        try:
            yield
        except DependencyDown as error:
            # Those who asked while it was still thought to be up fail together: that is one failure, not many.
            if probing or not self.is_closed:
                self._failed(error)
            raise
        except Unasked:
            raise
        except Exception:
            if probing:
                self._passed()
            raise
        if probing:
            self._passed()

    def _passed(self) -> None:
        log.info("consumer.resumed", queue=self._consumer, probes=self._failures)
        self._failures = 0
        self.reason = None

    def _failed(self, error: DependencyDown) -> None:
        self._failures += 1
        self.reason = str(error)
        self._not_before = _clock() + (error.retry_after_seconds or 0.0)
        log.warning(
            "consumer.paused", queue=self._consumer, error=error.code, detail=str(error), failures=self._failures
        )

    async def _wait(self, until: float | None) -> None:
        longest = min(_FIRST_SECONDS * 2.0 ** min(self._failures - 1, 16), _LONGEST_SECONDS)
        # Full jitter, so that many processes do not ask at the same moment; never sooner than we were told.
        ends = max(self._not_before, _clock() + longest * random.random())  # noqa: S311 (jitter, not a secret)
        if until is not None and ends > until + _LONGEST_SECONDS:
            await asyncio.sleep(until - _clock())
            raise HeldForLong
        await asyncio.sleep(ends - _clock())


def _clock() -> float:
    return asyncio.get_running_loop().time()
