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

from shared.contract.errors import ModelswapError
from shared.runtime.aside import SetAside
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_EVERY_SECONDS: Final = 60.0


class Durations(Protocol):
    """The store."""

    async def list_trainers(self) -> Sequence[str]: ...

    async def update_durations(self, trainers: Sequence[str]) -> int: ...


async def keep_updating(
    durations: Durations, stopping: asyncio.Event, aside: SetAside[str], *, seconds: float = _EVERY_SECONDS
) -> None:
    """
    Update the statistics every *seconds* until *stopping* is set.

    *aside* holds the trainers whose statistics cannot be computed.
    """
    while not stopping.is_set():
        try:
            await update(durations, aside)
        except ModelswapError as error:
            log.warning("durations.not_updated", error=error.code, detail=str(error))
        except Exception:
            log.exception("durations.broken")
        await wait_for_any(stopping, seconds=seconds)


async def update(durations: Durations, aside: SetAside[str]) -> None:
    """Update the statistics of each trainer once."""

    async def update_some(trainers: Sequence[str]) -> None:
        if changed := await durations.update_durations(trainers):
            log.info("durations.updated", trainers=changed)

    done = await aside.together(await durations.list_trainers(), update_some, key=str)
    if done.down:
        raise done.down
