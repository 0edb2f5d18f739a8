"""
Gauges that state reads from its database. Edge.

The promise that no user loses a model is checked for all users, some at a time: with a million users each is looked at
every 25 minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Final, NamedTuple, Protocol

from services.state.overview import StageCount
from shared.runtime import telemetry

_USERS_AT_ONCE: Final = 10_000


class Backlog(NamedTuple):
    """Committed events that are not published yet."""

    events: int
    oldest_seconds: float


class CheckedUsers(NamedTuple):
    """Result of a check of some users, in the order of their ids."""

    #: How many of them lost their model.
    without_model: int
    #: The last of them; None if they were the last of all.
    last: str | None


class Store(Protocol):
    """The store."""

    async def count_trainings(self) -> Sequence[StageCount]: ...

    async def measure_outbox(self) -> Backlog: ...

    async def check_users(self, *, after: str, limit: int) -> CheckedUsers: ...


class Measures:
    """Sets the gauges."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = ""
        #: Users without their model: in this walk through all users until now, and in the last one.
        self._found = 0
        self._found_last: int | None = None

    async def measure(self) -> None:
        for each in await self._store.count_trainings():
            telemetry.trainings.labels(each.stage).set(each.count)
        backlog = await self._store.measure_outbox()
        telemetry.outbox_pending.set(backlog.events)
        telemetry.outbox_oldest.set(backlog.oldest_seconds)
        await self._check_users()

    def forget(self) -> None:
        telemetry.trainings.clear()
        for gauge in (telemetry.outbox_pending, telemetry.outbox_oldest, telemetry.users_without_model):
            gauge.set(nan)

    async def _check_users(self) -> None:
        checked = await self._store.check_users(after=self._after, limit=_USERS_AT_ONCE)
        self._found += checked.without_model
        found = max(self._found, self._found_last or 0)
        self._after = checked.last or ""
        if checked.last is None:
            self._found, self._found_last = 0, self._found
        # Until all were looked at once, none found is no answer.
        telemetry.users_without_model.set(found if found or self._found_last is not None else nan)
