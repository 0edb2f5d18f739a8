"""Background work on dead letters: look up their trainings, and purge settled ones. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from services.ops.letters.letter import LetterTraining, why_closed
from services.ops.letters.store import Store
from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically

#: Returns those trainings of these ids of Replicate's that are registered, by id.
FindTrainings = Callable[[Sequence[str]], Awaitable[Mapping[str, LetterTraining]]]
#: Stores what the trainings of these dead letters are.
Keep = Callable[[Mapping[int, LetterTraining]], Awaitable[None]]

#: As many as state finds at once.
_LETTERS_AT_ONCE: Final = 200
#: At most four questions to state a second, of each kind.
_BETWEEN_SECONDS: Final = 0.25
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


@dataclass(slots=True)
class LookUps:
    """Looks up the trainings of dead letters, a few at a time, and after a while all of them once more."""

    name: str
    letters: LetterList
    find_trainings: FindTrainings
    keep: Keep
    _: KW_ONLY
    rounds_before_all: int
    #: The trainings that cannot be looked up, by Replicate's ids.
    aside: SetAside[str] = field(init=False)
    _after: int = field(init=False, default=0)
    _idle: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.aside = SetAside(self.name)

    async def run(self, stopping: asyncio.Event) -> None:
        """Look up trainings until *stopping* is set."""

        async def work() -> float:
            return _BETWEEN_SECONDS if await self.round() else _IDLE_SECONDS

        await run_periodically(self.name, work, stopping)

    async def round(self) -> int:
        """Look up the trainings of the next dead letters; return how many dead letters there were."""
        letters = await self.letters(after=self._after, limit=_LETTERS_AT_ONCE)

        async def look_up(training_ids: Sequence[str]) -> None:
            found = await self.find_trainings(training_ids)
            await self.keep({number: found[training_id] for number, training_id in letters if training_id in found})

        done = await self.aside.together(dict.fromkeys(training_id for _, training_id in letters), look_up, key=str)
        if done.down:
            raise done.down
        if letters:
            self._after = letters[-1][0]
        else:
            self._idle += 1
            if self._idle >= self.rounds_before_all:
                self._idle = self._after = 0
        return len(letters)


def owners(store: Store, find_trainings: FindTrainings) -> LookUps:
    """Look up the users of dead letters that name only a training."""

    async def keep(found: Mapping[int, LetterTraining]) -> None:
        await store.set_users({number: training.user_id for number, training in found.items()})

    every = _ROUNDS_BEFORE_ALL_OWNERS
    return LookUps("owners", store.without_user, find_trainings, keep, rounds_before_all=every)


def closing(store: Store, find_trainings: FindTrainings) -> LookUps:
    """
    Close open dead letters whose trainings have ended otherwise.

    State is asked, and does not tell: so a swap costs nothing more, and ops works beside any version of state.
    """

    async def keep(found: Mapping[int, LetterTraining]) -> None:
        reasons = {number: why_closed(training) for number, training in found.items()}
        await store.close({number: reason for number, reason in reasons.items() if reason is not None})

    every = _ROUNDS_BEFORE_ALL_OPEN
    return LookUps("closing", store.open_of_trainings, find_trainings, keep, rounds_before_all=every)


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
