"""
Keeps the statistics of trainings' durations up to date for as long as the process runs. Edge.

They are computed from stored trainings every minute, not when a training ends: so no swap waits for statistics, and
nothing is missed. Several processes may run this; one works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from services.state.store import Store
from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically

log = structlog.get_logger()

_EVERY_SECONDS: Final = 60.0


async def keep_updating(store: Store, stopping: asyncio.Event, aside: SetAside[str]) -> None:
    """
    Update the statistics every minute until *stopping* is set.

    *aside* holds the trainers whose statistics cannot be computed.
    """

    async def work() -> float:
        await update(store, aside)
        return _EVERY_SECONDS

    await run_periodically("durations", work, stopping, longest_seconds=_EVERY_SECONDS)


async def update(store: Store, aside: SetAside[str]) -> None:
    """Update the statistics of each trainer once."""

    async def update_some(trainers: Sequence[str]) -> None:
        if changed := await store.update_durations(trainers):
            log.info("durations.updated", trainers=changed)

    done = await aside.together(await store.list_trainers(), update_some, key=str)
    if done.down:
        raise done.down
