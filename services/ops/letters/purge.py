"""How long are settled letters kept? As long as the setting says; what is not settled, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Final, Protocol

import structlog

from shared.contract.errors import ModelswapError
from shared.runtime.aside import SetAside

log = structlog.get_logger()

_AT_ONCE: Final = 500
_EVERY_SECONDS: Final = 600.0


class Store(Protocol):
    """Where letters are kept."""

    async def settled(self, keep: timedelta, *, limit: int, without: Collection[int]) -> list[int]: ...

    async def forget(self, numbers: Sequence[int]) -> None: ...


async def purge(
    store: Store,
    keep: timedelta,
    wait: Callable[[float], Awaitable[None]],
    stopping: asyncio.Event,
    aside: SetAside[int],
) -> None:
    """Forget what was settled longer ago than *keep*, until *stopping* is set; *aside* holds what can not be."""
    while not stopping.is_set():
        try:
            found = await purge_some(store, keep, aside)
        except ModelswapError as error:
            log.info("purge.delayed", error=error.code, detail=str(error))
            found = 0
        except Exception:
            log.exception("purge.broken")
            found = 0
        if found < _AT_ONCE:
            await wait(_EVERY_SECONDS)


async def purge_some(store: Store, keep: timedelta, aside: SetAside[int]) -> int:
    """Forget a few letters more; how many were looked at."""
    numbers = await store.settled(keep, limit=_AT_ONCE, without=aside.waiting())
    done = await aside.together(numbers, store.forget, key=int)
    if done.down:
        raise done.down
    return len(numbers)
