"""How long are settled letters kept? As long as the setting says; what is not settled, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, Protocol

import structlog

from shared.contract.errors import ModelswapError

log = structlog.get_logger()

_AT_ONCE: Final = 500
_EVERY_SECONDS: Final = 600.0


class Store(Protocol):
    """Where letters are kept."""

    async def purge(self, keep: timedelta, *, limit: int) -> int: ...


async def purge(
    store: Store, keep: timedelta, wait: Callable[[float], Awaitable[None]], stopping: asyncio.Event
) -> None:
    """Forget what was settled longer ago than *keep*, until *stopping* is set."""
    while not stopping.is_set():
        try:
            forgotten = await store.purge(keep, limit=_AT_ONCE)
        except ModelswapError as error:
            log.info("purge.delayed", error=error.code, detail=str(error))
            forgotten = 0
        if forgotten < _AT_ONCE:
            await wait(_EVERY_SECONDS)
