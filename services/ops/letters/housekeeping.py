"""Background work on dead letters: look up their trainings, and purge settled ones. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, Protocol

from services.ops.letters.ended import LetterTraining, why_closed
from services.ops.letters.store import Store
from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically

#: Returns a training by Replicate's id; None if it is not registered.
FindTraining = Callable[[str], Awaitable[LetterTraining | None]]

_LETTERS_AT_ONCE: Final = 10
#: At most twenty look-ups a second, of each kind.
_BETWEEN_SECONDS: Final = 0.5
_IDLE_SECONDS: Final = 5.0
#: A training may be registered after its dead letter came: after so many idle rounds all are looked up once more.
_ROUNDS_BEFORE_ALL_OWNERS: Final = 120
#: A training may end at any time.
_ROUNDS_BEFORE_ALL_OPEN: Final = 4
_PURGED_AT_ONCE: Final = 500
_PURGE_SECONDS: Final = 600.0


class LetterList(Protocol):
    """Dead letters numbered above *after*, with their trainings."""

    async def __call__(self, *, after: int, limit: int) -> list[tuple[int, str]]: ...


class LookUps:
    """Looks up the trainings of dead letters, a few at a time, and after a while all of them once more."""

    def __init__(
        self,
        name: str,
        letters: LetterList,
        look_up: Callable[[str], Awaitable[None]],
        aside: SetAside[str],
        *,
        rounds_before_all: int,
    ) -> None:
        """*aside* holds the trainings that cannot be looked up, by Replicate's ids."""
        self._name = name
        self._letters = letters
        self._look_up = look_up
        self._aside = aside
        self._rounds_before_all = rounds_before_all
        self._after = 0
        self._idle = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Look up trainings until *stopping* is set."""

        async def work() -> float:
            return _BETWEEN_SECONDS if await self.round() else _IDLE_SECONDS

        await run_periodically(self._name, work, stopping)

    async def round(self) -> int:
        """Look up the trainings of the next dead letters; return how many dead letters there were."""
        letters = await self._letters(after=self._after, limit=_LETTERS_AT_ONCE)
        done = await self._aside.each(dict.fromkeys(training_id for _, training_id in letters), self._look_up, key=str)
        if done.down:
            raise done.down
        if letters:
            self._after = letters[-1][0]
        else:
            self._idle += 1
            if self._idle >= self._rounds_before_all:
                self._idle = self._after = 0
        return len(letters)


def owners(store: Store, find_training: FindTraining, aside: SetAside[str]) -> LookUps:
    """Look up the users of dead letters that name only a training."""

    async def look_up(training_id: str) -> None:
        training = await find_training(training_id)
        if training is not None:
            await store.set_user(training_id, training.user_id)

    return LookUps("owners", store.without_user, look_up, aside, rounds_before_all=_ROUNDS_BEFORE_ALL_OWNERS)


def closing(store: Store, find_training: FindTraining, aside: SetAside[str]) -> LookUps:
    """
    Close open dead letters whose trainings have ended otherwise.

    State is asked, and does not tell: so a swap costs nothing more, and ops works beside any version of state.
    """

    async def look_up(training_id: str) -> None:
        training = await find_training(training_id)
        reason = None if training is None else why_closed(training)
        if reason is not None:
            await store.close(training_id, reason)

    return LookUps("closing", store.open_of_trainings, look_up, aside, rounds_before_all=_ROUNDS_BEFORE_ALL_OPEN)


async def purge(store: Store, keep: timedelta, stopping: asyncio.Event, aside: SetAside[int]) -> None:
    """
    Delete dead letters settled *keep* ago or earlier, and old idempotency keys, until *stopping* is set.

    *aside* holds the dead letters that cannot be deleted.
    """

    async def work() -> float:
        return 0.0 if await purge_some(store, keep, aside) == _PURGED_AT_ONCE else _PURGE_SECONDS

    await run_periodically("purge", work, stopping, longest_seconds=_PURGE_SECONDS)


async def purge_some(store: Store, keep: timedelta, aside: SetAside[int]) -> int:
    """Delete the next dead letters and keys; return how many were tried, the larger of both."""
    numbers = await store.settled(keep, limit=_PURGED_AT_ONCE, without=aside.waiting())
    done = await aside.together(numbers, store.forget, key=int)
    if done.down:
        raise done.down
    return max(len(numbers), await store.prune_keys(limit=_PURGED_AT_ONCE))
