"""Waiting: for the first of several events, for work unless the process stops, and between attempts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeVar

from shared.contract.errors import DependencyDown

T = TypeVar("T")

_CLEAN_UP_SECONDS: Final = 1.0
#: Beyond it, a doubled second is longer than anybody waits, and no float overflows.
_MOST_DOUBLINGS: Final = 32


class Stopped(Exception):
    """The process is stopping, so the work was cancelled."""


async def unless_stopped(stopping: asyncio.Event, work: Coroutine[None, None, T]) -> T:
    """
    Do *work*, and cancel it as soon as *stopping* is set.

    Raises:
        Stopped: if it was cancelled.

    """
    task = asyncio.create_task(work)
    try:
        await wait_for_any(task, stopping)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CLEAN_UP_SECONDS)
    if task.done() and not (task.cancelled() and stopping.is_set()):
        return task.result()
    raise Stopped


async def wait_for_any(*sources: asyncio.Event | asyncio.Task[Any], seconds: float | None = None) -> None:
    """Wait until one of *sources* is set or done, at most *seconds*."""
    waiters = [asyncio.create_task(each.wait()) for each in sources if isinstance(each, asyncio.Event)]
    tasks = [each for each in sources if isinstance(each, asyncio.Task)]
    try:
        await asyncio.wait([*waiters, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def is_stray_cancel() -> bool:
    """
    Return whether the CancelledError just caught is a connection error, not a cancellation of this task.

    The AMQP library raises it in every task that waits on a connection that dies.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() == 0


async def without_stray_cancel(work: Awaitable[T]) -> T:
    """
    Do *work*; a cancellation that does not come from us is a lost connection.

    Raises:
        DependencyDown: instead of such a cancellation.

    """
    try:
        return await work
    except asyncio.CancelledError as error:
        if not is_stray_cancel():
            raise
        raise DependencyDown("a connection was lost in the middle of the work") from error


def backoff_seconds(failures: int, *, first: float, longest: float) -> float:
    """Return the seconds to wait after *failures* in a row: *first*, then twice as long each time; 0 after none."""
    if failures == 0:
        return 0.0
    return min(first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), longest)


def jittered_backoff_seconds(failures: int, *, first: float, longest: float) -> float:
    """Return a random wait up to that of `backoff_seconds`, so that many processes do not try at the same time."""
    return backoff_seconds(failures, first=first, longest=longest) * random.random()
