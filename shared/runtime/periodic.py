"""Loops of a process: repeat work in rounds, back off after failures, and stop at once. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from shared.contract.errors import DependencyDown, ModelswapError
from shared.runtime import telemetry
from shared.runtime.waiting import jittered_backoff_seconds, wait_for_any, without_stray_cancel

log = structlog.get_logger()

_MEASURE_SECONDS: Final = 15.0

#: One round; returns the seconds until the next.
Round = Callable[[], Awaitable[float]]
#: Called after each round with why it failed, or with None.
Report = Callable[[str | None], Awaitable[None]]


async def _ignore(_: str | None) -> None:
    pass


async def run_periodically(
    name: str,
    work: Round,
    stopping: asyncio.Event,
    *,
    wake: asyncio.Event | None = None,
    first_seconds: float = 1.0,
    longest_seconds: float = 10.0,
    report: Report = _ignore,
) -> None:
    """
    Repeat *work* until *stopping* is set; *wake* ends the wait for the next round.

    After a round that raises, wait longer each time, with jitter: about *first_seconds* at first, at most
    *longest_seconds*, but never less than a dependency asks for. *wake* does not shorten that wait, since it would only
    hurry the next failure. *name* is that of the loop in logs and metrics.
    """
    failures, failed = 0, telemetry.failed_rounds.labels(name)
    while not stopping.is_set():
        if wake is not None:
            wake.clear()
        try:
            seconds = await without_stray_cancel(work())
        except Exception as error:  # noqa: BLE001 (it is logged, and the next round follows)
            failures += 1
            failed.inc()
            await report(_log(name, error, failures))
            seconds = jittered_backoff_seconds(failures, first=first_seconds, longest=longest_seconds)
            if isinstance(error, DependencyDown):
                seconds = max(seconds, error.retry_after_seconds or 0.0)
            await wait_for_any(stopping, seconds=seconds)
        else:
            if failures:
                log.info("loop.resumed", loop=name, failures=failures)
                failures = 0
            await report(None)
            await wait_for_any(stopping, *([wake] if wake is not None else []), seconds=seconds)


async def keep_house(
    work: Callable[[int], Awaitable[int]], stopping: asyncio.Event, *, batch: int, pause: float
) -> None:
    """
    Repeat *work* until *stopping* is set: it deletes or repairs at most *batch* rows of a table, and returns how many.

    A round that changed more than half a batch is followed by the next at once: more is probably left, and a few rows
    of a batch may have to stay. Else the next follows after *pause* seconds.
    """

    async def round_() -> float:
        return 0.0 if await work(batch) > batch // 2 else pause

    await run_periodically("housekeeping", round_, stopping)


class Measures(Protocol):
    """The gauges of a service that are read from its database."""

    async def measure(self) -> None:
        """Read and set them."""

    def forget(self) -> None:
        """Remove their values, which may be old."""


async def keep_measuring(
    measures: Measures, stopping: asyncio.Event, *, every_seconds: float = _MEASURE_SECONDS
) -> None:
    """
    Measure until *stopping* is set, so that no scrape of /metrics asks the database.

    After a failure there are no values until the next success.
    """

    async def work() -> float:
        await measures.measure()
        return every_seconds

    async def report(failure: str | None) -> None:
        if failure is not None:
            measures.forget()

    await run_periodically("measures", work, stopping, longest_seconds=every_seconds, report=report)


def _log(name: str, error: Exception, failures: int) -> str:
    """Log a failed round; return what operators are shown."""
    if isinstance(error, ModelswapError):
        log.warning("loop.delayed", loop=name, error=error.code, detail=str(error), failures=failures)
        return str(error)
    log.error("loop.broken", loop=name, failures=failures, exc_info=error)
    return "an unexpected error, which is logged"
