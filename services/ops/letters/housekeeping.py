"""Background work on dead letters: look up their users, and purge settled ones. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Final, Protocol

from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically

#: Returns the user a training is registered for; None if it is not registered.
FindUser = Callable[[str], Awaitable[str | None]]

_USERS_AT_ONCE: Final = 10
#: At most twenty look-ups a second.
_BETWEEN_SECONDS: Final = 0.5
_IDLE_SECONDS: Final = 5.0
#: A training may be registered after its dead letter came: after so many idle rounds all are looked up once more.
_ROUNDS_BEFORE_ALL: Final = 120
_PURGED_AT_ONCE: Final = 500
_PURGE_SECONDS: Final = 600.0


class Store(Protocol):
    """The store of dead letters."""

    async def without_user(self, *, after: int, limit: int) -> list[tuple[int, str]]: ...

    async def set_user(self, training_id: str, user_id: str) -> None: ...

    async def settled(self, keep: timedelta, *, limit: int, without: Collection[int]) -> list[int]: ...

    async def forget(self, numbers: Sequence[int]) -> None: ...


class Owners:
    """Looks up the users of dead letters that name only a training."""

    def __init__(self, store: Store, find_user: FindUser, aside: SetAside[str]) -> None:
        """*aside* holds the trainings that cannot be looked up, by Replicate's ids."""
        self._store = store
        self._find_user = find_user
        self._aside = aside
        self._after = 0
        self._idle = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Look up users until *stopping* is set."""

        async def work() -> float:
            return _BETWEEN_SECONDS if await self.round() else _IDLE_SECONDS

        await run_periodically("owners", work, stopping)

    async def round(self) -> int:
        """Look up the users of the next dead letters; return how many dead letters there were."""
        letters = await self._store.without_user(after=self._after, limit=_USERS_AT_ONCE)
        done = await self._aside.each(dict.fromkeys(training_id for _, training_id in letters), self._look_up, key=str)
        if done.down:
            raise done.down
        if letters:
            self._after = letters[-1][0]
        else:
            self._idle += 1
            if self._idle >= _ROUNDS_BEFORE_ALL:
                self._idle = self._after = 0
        return len(letters)

    async def _look_up(self, training_id: str) -> None:
        user_id = await self._find_user(training_id)
        if user_id is not None:
            await self._store.set_user(training_id, user_id)


async def purge(store: Store, keep: timedelta, stopping: asyncio.Event, aside: SetAside[int]) -> None:
    """Delete dead letters settled *keep* ago or earlier until *stopping* is set; *aside* holds undeletable ones."""

    async def work() -> float:
        return 0.0 if await purge_some(store, keep, aside) == _PURGED_AT_ONCE else _PURGE_SECONDS

    await run_periodically("purge", work, stopping, longest_seconds=_PURGE_SECONDS)


async def purge_some(store: Store, keep: timedelta, aside: SetAside[int]) -> int:
    """Delete the next dead letters; return how many were tried."""
    numbers = await store.settled(keep, limit=_PURGED_AT_ONCE, without=aside.waiting())
    done = await aside.together(numbers, store.forget, key=int)
    if done.down:
        raise done.down
    return len(numbers)
