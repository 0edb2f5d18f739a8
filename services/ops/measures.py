"""Gauges that ops reads from its database. Edge."""

from __future__ import annotations

from math import nan

from services.ops.letters.store import Store as Letters
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.store import Store as Replays
from shared.runtime import telemetry

_ENDED = (Status.DONE, Status.CANCELED)


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
