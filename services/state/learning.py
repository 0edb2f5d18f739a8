"""
How long do trainings take? Edge: learns it anew every minute, for as long as the process runs.

From what is stored, and not as trainings end: a swap waits for no statistics, and whatever was missed, by this process
or another, is found the next time. Several may run: one works at a time.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from shared.contract.errors import ModelswapError
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_EVERY_SECONDS: Final = 60.0


class Durations(Protocol):
    """Where the times of past trainings are kept."""

    async def learn_durations(self) -> int: ...


async def keep_learning(durations: Durations, stopping: asyncio.Event, *, seconds: float = _EVERY_SECONDS) -> None:
    """Learn every so many *seconds* until *stopping* is set. An estimate that is a little old harms nobody."""
    while not stopping.is_set():
        try:
            learned = await durations.learn_durations()
        except ModelswapError as error:
            log.warning("durations.not_learned", error=error.code, detail=str(error))
        else:
            if learned:
                log.info("durations.learned", trainers=learned)
        await wait_for_any(stopping, seconds=seconds)
