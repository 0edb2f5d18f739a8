"""
How long do trainings take? Edge: learns it anew every minute, for as long as the process runs.

From what is stored, and not as trainings end: a swap waits for no statistics, and whatever was missed, by this process
or another, is found the next time. Several may run: one works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from shared.contract.errors import ModelswapError
from shared.runtime.aside import SetAside
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_EVERY_SECONDS: Final = 60.0


class Durations(Protocol):
    """Where the times of past trainings are kept."""

    async def list_trainers(self) -> Sequence[str]: ...

    async def learn_durations(self, trainers: Sequence[str]) -> int: ...


async def keep_learning(
    durations: Durations, stopping: asyncio.Event, aside: SetAside[str], *, seconds: float = _EVERY_SECONDS
) -> None:
    """
    Learn every so many *seconds* until *stopping* is set. An estimate that is a little old harms nobody.

    *aside* holds the trainers whose trainings can not be measured.
    """
    while not stopping.is_set():
        try:
            await learn(durations, aside)
        except ModelswapError as error:
            log.warning("durations.not_learned", error=error.code, detail=str(error))
        except Exception:
            log.exception("durations.broken")
        await wait_for_any(stopping, seconds=seconds)


async def learn(durations: Durations, aside: SetAside[str]) -> None:
    """Learn once how long the trainings of each trainer take."""

    async def learn_some(trainers: Sequence[str]) -> None:
        if learned := await durations.learn_durations(trainers):
            log.info("durations.learned", trainers=learned)

    done = await aside.together(await durations.list_trainers(), learn_some, key=str)
    if done.down:
        raise done.down
