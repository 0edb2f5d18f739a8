"""The events log is read to what was its newest event when the reading began."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from services.cli.events import log
from services.cli.problem import Problem
from shared.contract.headers import OFFSET


def delivery(offset: int) -> Any:
    return SimpleNamespace(
        headers={OFFSET: offset}, routing_key="model.activated.v1", body=b"{}", published_at=None, tag=offset
    )


class Log:
    """Answers each look with the next of these batches, then with none."""

    def __init__(self, batches: Iterator[Sequence[Any]]) -> None:
        self._batches = batches

    async def take(self, seconds: float) -> Sequence[Any]:
        assert seconds > 0
        return await self.rest()

    async def rest(self) -> Sequence[Any]:
        return next(self._batches, [])

    def ack(self, last: Any) -> None:
        pass


def logs(monkeypatch: pytest.MonkeyPatch, *of_each: Sequence[Sequence[Any]]) -> None:
    """Open one log after the other: the first finds the newest event, the second is read."""
    left = iter(of_each)

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[Log]:
        yield Log(iter(next(left)))

    monkeypatch.setattr(log, "_opened", opened)


async def read() -> list[object]:
    return [each.delivery.headers[OFFSET] async for each in log.read_to_end("amqp://", log.Wanted())]


async def test_what_comes_after_the_beginning_is_left_out(monkeypatch):
    logs(monkeypatch, [[delivery(2)]], [[delivery(1)], [delivery(2), delivery(3)]])

    assert await read() == [1, 2]


async def test_a_log_that_sends_no_more_is_a_problem_not_a_wait(monkeypatch):
    logs(monkeypatch, [[delivery(2)]], [[delivery(1)]])

    with pytest.raises(Problem, match=r"sent nothing more of modelswap\.events\.log for 60 s"):
        await read()
