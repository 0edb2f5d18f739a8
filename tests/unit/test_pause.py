"""When may a dependency be asked again that was down?"""

from __future__ import annotations

import asyncio

import pytest

from shared.contract.errors import DependencyDown
from shared.runtime.broker.pause import HeldForLong, Pause, Unasked


@pytest.fixture
async def closed() -> Pause:
    pause = Pause("a queue")
    with pytest.raises(DependencyDown):
        async with pause.turn():
            raise DependencyDown("Postgres is away")
    return pause


async def test_it_is_open_again_once_somebody_got_an_answer(closed: Pause):
    async with closed.turn():
        pass

    assert closed.reason is None


async def test_an_error_is_an_answer(closed: Pause):
    with pytest.raises(ValueError, match="no training"):
        async with closed.turn():
            raise ValueError("no training")

    assert closed.reason is None


async def test_a_turn_that_nobody_used_says_nothing_of_the_dependency(closed: Pause):
    with pytest.raises(Unasked):
        async with closed.turn():
            raise Unasked

    assert closed.reason == "Postgres is away"


async def test_whoever_waits_behind_another_waits_no_longer_than_they_may(closed: Pause):
    clock = asyncio.get_running_loop().time
    async with closed.turn():
        with pytest.raises(HeldForLong):
            async with closed.turn(until=clock() + 0.01):
                pytest.fail("it was let in beside the other")


async def test_a_wait_that_was_told_is_not_slept_out_with_something_in_hand(closed: Pause):
    clock = asyncio.get_running_loop().time
    with pytest.raises(DependencyDown):
        async with closed.turn():
            raise DependencyDown("too many requests", retry_after_seconds=3600)

    with pytest.raises(HeldForLong):
        async with closed.turn(until=clock() + 0.01):
            pytest.fail("it asked sooner than it was told")
