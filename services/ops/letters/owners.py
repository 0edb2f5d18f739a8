"""Whose training is it? Asks state about letters of which only the training is known: slowly, as well as may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from shared.contract.errors import ModelswapError
from shared.runtime.aside import SetAside

log = structlog.get_logger()

#: Says which user a training is registered for; None if it is not registered.
Ask = Callable[[str], Awaitable[str | None]]
#: Waits that long, or until the process is told to stop.
Wait = Callable[[float], Awaitable[None]]

_AT_ONCE: Final = 50
_BETWEEN_SECONDS: Final = 0.05
_IDLE_SECONDS: Final = 5.0
#: A training may be registered after its letter came: then all are asked about once more.
_ROUNDS_BEFORE_ALL: Final = 120


class Store(Protocol):
    """Where letters are kept."""

    async def without_user(self, *, after: int, limit: int) -> list[tuple[int, str]]: ...

    async def set_user(self, training_id: str, user_id: str) -> None: ...


class Owners:
    """Writes down the users of letters."""

    def __init__(self, store: Store, ask: Ask, wait: Wait, aside: SetAside[str]) -> None:
        """*aside* holds the trainings that can not be asked about, by Replicate's ids."""
        self._store = store
        self._ask = ask
        self._wait = wait
        self._aside = aside
        self._after = 0
        self._idle = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Until *stopping* is set. Whatever is away is asked again later: nothing depends on this."""
        while not stopping.is_set():
            try:
                found = await self.round()
            except ModelswapError as error:
                log.info("owners.delayed", error=error.code, detail=str(error))
                found = 0
            except Exception:
                log.exception("owners.broken")
                found = 0
            if not found:
                self._rest()
                await self._wait(_IDLE_SECONDS)

    async def round(self) -> int:
        """Ask about a few letters more; how many."""
        letters = await self._store.without_user(after=self._after, limit=_AT_ONCE)
        done = await self._aside.each(dict.fromkeys(training_id for _, training_id in letters), self._find, key=str)
        if done.down:
            raise done.down
        if letters:
            self._after = letters[-1][0]
        return len(letters)

    async def _find(self, training_id: str) -> None:
        user_id = await self._ask(training_id)
        if user_id is not None:
            await self._store.set_user(training_id, user_id)
        await self._wait(_BETWEEN_SECONDS)

    def _rest(self) -> None:
        self._idle += 1
        if self._idle >= _ROUNDS_BEFORE_ALL:
            self._idle = self._after = 0
