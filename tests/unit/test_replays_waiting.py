"""What is said of letters that were sent long ago?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.ops.replays.waiting import Waiting

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG = timedelta(seconds=10)


class Process:
    """Says of itself what it is told to."""

    def __init__(self, said: str | None) -> None:
        self.said = said
        self.asked = 0

    async def check(self) -> str | None:
        self.asked += 1
        return self.said


async def test_whatever_has_a_letter_in_hand_says_what_it_waits_for():
    extractor, state = Process("consumer: Replicate answers 401"), Process(None)
    waiting = Waiting({"the extractor": extractor.check, "state": state.check})

    said = [await waiting.reasons(NOON - LONG, now=NOON) for _ in range(3)]

    assert said == [["the extractor: consumer: Replicate answers 401"]] * 3
    assert (extractor.asked, state.asked) == (1, 1)


@pytest.mark.parametrize("sent_at", [None, NOON, NOON - LONG + timedelta(milliseconds=1)])
async def test_of_letters_that_went_just_now_nothing_is_asked(sent_at: datetime | None):
    extractor = Process("away")

    assert await Waiting({"the extractor": extractor.check}).reasons(sent_at, now=NOON) == ()

    assert extractor.asked == 0
