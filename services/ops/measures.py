"""Gauges that ops reads from its database. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Protocol

from services.ops.letters.views import LetterStatus
from services.ops.replays.plan import Outcome, Status
from shared.runtime import telemetry

_ENDED = (Status.DONE, Status.CANCELED)


class Letters(Protocol):
    """The store of dead letters."""

    async def count_some(self) -> Mapping[LetterStatus, int]: ...

    async def oldest_seconds(self) -> float: ...


class Replays(Protocol):
    """The store of replays."""

    async def count_open(self) -> Mapping[Status, int]: ...

    async def count_running_letters(self) -> Mapping[Outcome, int]: ...


class Measures:
    """Sets the gauges."""

    def __init__(self, letters: Letters, replays: Replays) -> None:
        self._letters = letters
        self._replays = replays

    async def measure(self) -> None:
        for letter_status, count in (await self._letters.count_some()).items():
            telemetry.dead_letters.labels(letter_status).set(count)
        telemetry.dead_letters_oldest.set(await self._letters.oldest_seconds())
        replays = await self._replays.count_open()
        for status in Status:
            if status not in _ENDED:
                telemetry.replays.labels(status).set(replays.get(status, 0))
        letters = await self._replays.count_running_letters()
        for outcome in Outcome:
            telemetry.replay_letters.labels(outcome).set(letters.get(outcome, 0))

    def forget(self) -> None:
        for gauge in (telemetry.dead_letters, telemetry.replays, telemetry.replay_letters):
            gauge.clear()
        telemetry.dead_letters_oldest.set(nan)
