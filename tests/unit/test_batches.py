"""What fails for a whole batch is tried on each alone; who is to blame for a dependency that is down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from shared.contract.errors import DependencyDown, PermanentError
from shared.runtime.broker.batches import attempt
from shared.runtime.broker.circuit import NotTried
from shared.runtime.postgres_errors import TooSlow


class Worker:
    """Doubles numbers, and fails on some."""

    def __init__(self, errors: dict[int, Exception], *, times: int = 99) -> None:
        self.tried: Counter[int] = Counter()
        self._errors = errors
        self._times = times

    async def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        if len(numbers) == 1:
            self.tried.update(numbers)
        for number in numbers:
            if number in self._errors and self.tried[number] <= self._times:
                raise self._errors[number]
        return [2 * number for number in numbers]


async def test_a_batch_that_passes_is_tried_once():
    worker = Worker({})

    assert await attempt(range(100), worker, queue="q") == [2 * number for number in range(100)]
    assert not worker.tried


async def test_an_own_error_is_the_result_of_that_one_alone():
    error = PermanentError("three is not allowed")

    assert await attempt(range(5), Worker({3: error}), queue="q") == [0, 2, 4, error, 8]


async def test_what_is_down_for_one_twice_is_its_own_error():
    worker, error = Worker({3: TooSlow("three takes too long")}), TooSlow

    results = await attempt(range(100), worker, queue="q")

    assert isinstance(results[3], error)
    assert [*results[:3], *results[4:]] == [2 * number for number in range(100) if number != 3]
    assert worker.tried[3] == 2


async def test_what_is_down_for_one_once_passes_the_second_time():
    worker = Worker({3: TooSlow("Postgres is busy")}, times=1)

    assert await attempt(range(5), worker, queue="q") == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("size", [1, 2, 256])
async def test_what_is_down_for_all_is_soon_given_up(size: int):
    worker = Worker(dict.fromkeys(range(size), TooSlow("Postgres is overloaded")))

    with pytest.raises(TooSlow):
        await attempt(range(size), worker, queue="q")

    assert worker.tried.total() == min(size, 2)


async def test_several_that_are_down_do_not_keep_the_others_from_being_tried_for_good():
    worker = Worker(dict.fromkeys((0, 1), TooSlow("takes too long")))
    for _ in range(100):
        try:
            results = await attempt(range(4), worker, queue="q")
        except TooSlow:
            continue
        if not any(isinstance(result, NotTried) for result in results):
            break

    assert [isinstance(result, TooSlow) for result in results] == [True, True, False, False]
    assert results[2:] == [4, 6]


async def test_those_that_are_answered_do_not_wait_for_those_that_are_not():
    slow = range(8)
    worker, waiting, done = Worker(dict.fromkeys(slow, TooSlow("takes too long"))), list(range(10)), list[int]()
    for _ in range(100):
        try:
            results = await attempt(waiting, worker, queue="q")
        except TooSlow:
            continue
        done += [result for result in results if isinstance(result, int)]
        waiting = [each for each, result in zip(waiting, results, strict=True) if isinstance(result, NotTried)]
        if len(done) == 2:
            break

    # So many are too slow that two of them always follow each other.
    assert sorted(done) == [16, 18]
    assert set(slow) == set(waiting)


@pytest.mark.parametrize("error", [DependencyDown("Postgres is away"), NotTried()])
async def test_what_concerns_all_is_raised_at_once(error: Exception):
    worker = Worker({3: error})

    with pytest.raises(type(error)):
        await attempt(range(5), worker, queue="q")

    assert not worker.tried


async def test_what_concerns_all_is_raised_from_between_them():
    class Dying(Worker):
        async def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
            if len(numbers) > 1:
                raise PermanentError("one of them")
            if self.tried.total() == 2:
                raise DependencyDown("Postgres is away")
            return await super().__call__(numbers)

    with pytest.raises(DependencyDown):
        await attempt(range(5), Dying({}), queue="q")
