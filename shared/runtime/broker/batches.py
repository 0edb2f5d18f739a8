"""
Work on a batch: if it fails for all together, each delivery is tried alone, so that a bad one harms only itself.

    the delivery's own error    its result
    DependencyDown              raised, unless it may concern one delivery only and is met twice by one, while others
                                are answered: then that is its own error. If two in a row meet it, no other is tried:
                                each could take as long as a statement may. Then the result of all that are not answered
                                is NotTried: they are tried again, beside what has arrived meanwhile
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.broker.circuit import NotTried

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")
#: Returns one result for each item, in order.
Work = Callable[[Sequence[T]], Awaitable[Sequence[R]]]

_ENOUGH_DOWN: Final = 2


async def attempt(items: Sequence[T], work: Work[T, R], *, queue: str) -> Sequence[R | Exception]:
    """
    Do *work* on *items*, which are of *queue*; return the result or the own error of each.

    Raises:
        DependencyDown: if it is down for all that were tried, or not for one delivery only. Some may be done already.
        NotTried: if *work* raises it.

    """
    if len(items) == 1:
        result = await _alone(items[0], work)
        if isinstance(result, DependencyDown):
            raise result
        return [result]
    try:
        return await work(items)
    except Exception as error:
        if _concerns_all(error):
            raise
        log.info("batch.split", queue=queue, size=len(items), error=repr(error))
    results = await _one_by_one(items, work)
    for number, result in results.items():
        if isinstance(result, DependencyDown):
            results[number] = await _alone(items[number], work)
    return [results.get(number, NotTried()) for number in range(len(items))]


async def _one_by_one(items: Sequence[T], work: Work[T, R]) -> dict[int, R | Exception]:
    """Return the results by number; if two in a row met DependencyDown, only of those that were answered before."""
    results: dict[int, R | Exception] = {}
    down_in_a_row = 0
    # In another order each time, so that those in front do not keep the others from being tried.
    for number in random.sample(range(len(items)), len(items)):
        result = results[number] = await _alone(items[number], work)
        if not isinstance(result, DependencyDown):
            down_in_a_row = 0
            continue
        down_in_a_row += 1
        if down_in_a_row == _ENOUGH_DOWN:
            answered = {number: each for number, each in results.items() if not isinstance(each, DependencyDown)}
            if not answered:
                raise result
            return answered
    return results


async def _alone(item: T, work: Work[T, R]) -> R | Exception:
    try:
        (result,) = await work([item])
    except Exception as error:
        if _concerns_all(error):
            raise
        return error  # it ends in a retry or a dead letter, or is set aside
    return result


def _concerns_all(error: Exception) -> bool:
    return isinstance(error, NotTried) or (isinstance(error, DependencyDown) and not error.may_concern_one)
