"""A loop goes on through failures, waits longer after each, and stops at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from shared.contract.errors import DependencyDown, PermanentError
from shared.runtime import telemetry
from shared.runtime.periodic import run_periodically
from tests.counts import counted

FOREVER = 3600.0


class Loop:
    """Work whose rounds have given results: an exception, or the seconds until the next round."""

    def __init__(self, *results: float | BaseException) -> None:
        self.results = list(results)
        self.stopping = asyncio.Event()
        self.began: list[float] = []
        self.reports: list[str | None] = []
        self.after_last: Callable[[], None] = self.stopping.set

    async def work(self) -> float:
        self.began.append(asyncio.get_running_loop().time())
        result = self.results.pop(0)
        if not self.results:
            self.after_last()
        if isinstance(result, BaseException):
            raise result
        return result

    async def report(self, trouble: str | None) -> None:
        self.reports.append(trouble)

    async def run(self, wake: asyncio.Event | None = None) -> None:
        async with asyncio.timeout(60):
            await run_periodically(
                "test",
                self.work,
                self.stopping,
                wake=wake,
                first_seconds=0.01,
                longest_seconds=0.02,
                report=self.report,
            )


async def test_every_kind_of_failure_is_survived_and_reported():
    loop = Loop(0.0, DependencyDown("away"), PermanentError("no"), RuntimeError("a bug"), asyncio.CancelledError(), 0.0)

    with capture_logs() as logs:
        await loop.run()

    lost = "a connection was lost in the middle of the work"
    assert loop.reports == [None, "away", "no", "an unexpected error, which is logged", lost, None]
    assert [(line["event"], line["failures"]) for line in logs] == [
        ("loop.delayed", 1),
        ("loop.delayed", 2),
        ("loop.broken", 3),
        ("loop.delayed", 4),
        ("loop.resumed", 4),
    ]


async def test_failed_rounds_are_counted():
    before = counted(telemetry.failed_rounds).get(("test",), 0.0)

    await Loop(DependencyDown("away"), RuntimeError("a bug"), 0.0).run()

    assert counted(telemetry.failed_rounds)["test",] == before + 2


async def test_a_dependency_is_given_the_time_it_asks_for():
    loop = Loop(DependencyDown("throttled", retry_after_seconds=0.2), 0.0)

    await loop.run()

    ((first, second),) = pairwise(loop.began)
    assert second - first >= 0.2


@pytest.mark.parametrize("result", [FOREVER, DependencyDown("away", retry_after_seconds=FOREVER)])
async def test_a_stop_ends_every_wait(result: float | DependencyDown):
    await Loop(result).run()


async def test_a_wake_ends_the_wait_for_the_next_round():
    wake = asyncio.Event()
    loop = Loop(FOREVER, 0.0)
    running = asyncio.create_task(loop.run(wake))
    while not loop.began:
        await asyncio.sleep(0)

    wake.set()
    await running

    assert len(loop.began) == 2


async def test_a_wake_does_not_hurry_a_retry():
    wake = asyncio.Event()
    loop = Loop(DependencyDown("away", retry_after_seconds=FOREVER))
    loop.after_last = wake.set
    running = asyncio.create_task(loop.run(wake))
    for _ in range(100):
        await asyncio.sleep(0)

    assert len(loop.began) == 1
    loop.stopping.set()
    await running


async def test_a_cancelled_task_ends():
    loop = Loop(FOREVER)
    loop.after_last = lambda: None
    running = asyncio.create_task(loop.run())
    while not loop.began:
        await asyncio.sleep(0)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
