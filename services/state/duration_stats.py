"""
Keeps the statistics of trainings' durations up to date for as long as the process runs. Edge.

They are computed from stored trainings every minute, not when a training ends: so no swap waits for statistics, and
nothing is missed. Several processes may run this; one works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically

log = structlog.get_logger()

_EVERY_SECONDS: Final = 60.0


class Durations(Protocol):
    """The store."""

    async def list_trainers(self) -> Sequence[str]: ...

    async def update_durations(self, trainers: Sequence[str]) -> int: ...


async def keep_updating(durations: Durations, stopping: asyncio.Event, aside: SetAside[str]) -> None:
    """
    Update the statistics every minute until *stopping* is set.

    *aside* holds the trainers whose statistics cannot be computed.
    """

    async def work() -> float:
        await update(durations, aside)
        return _EVERY_SECONDS

    await run_periodically("durations", work, stopping, longest_seconds=_EVERY_SECONDS)


async def update(durations: Durations, aside: SetAside[str]) -> None:
    """Update the statistics of each trainer once."""

    async def update_some(trainers: Sequence[str]) -> None:
        if changed := await durations.update_durations(trainers):
            log.info("durations.updated", trainers=changed)

    done = await aside.together(await durations.list_trainers(), update_some, key=str)
    if done.down:
        raise done.down
