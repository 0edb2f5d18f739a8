"""Sets gauges from the database in a loop, so that a scrape of /metrics never asks it. Edge."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from shared.runtime.periodic import run_periodically

_EVERY_SECONDS: Final = 15.0


class Measures(Protocol):
    """The gauges of a service that are read from its database."""

    async def measure(self) -> None:
        """Read and set them."""

    def forget(self) -> None:
        """Remove their values, which may be old."""


async def keep_measuring(measures: Measures, stopping: asyncio.Event, *, every_seconds: float = _EVERY_SECONDS) -> None:
    """Measure until *stopping* is set; after a failure there are no values until the next success."""

    async def work() -> float:
        await measures.measure()
        return every_seconds

    async def report(failure: str | None) -> None:
        if failure is not None:
            measures.forget()

    await run_periodically("measures", work, stopping, longest_seconds=every_seconds, report=report)
