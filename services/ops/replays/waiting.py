"""Why sent dead letters have no outcome yet: the health of the services that handle them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from services.ops.replays.views import ReplayView

#: Returns what is wrong, or None.
Check: TypeAlias = Callable[[], Awaitable[str | None]]

#: Verifying a model may take minutes; a service that waits for a dependency says so at once.
_LONG: Final = timedelta(seconds=10)
_REMEMBERED_SECONDS: Final = 2.0


class Waiting:
    """Asks at most once in two seconds, however many replays are shown."""

    def __init__(self, checks: Mapping[str, Check], *, long: timedelta = _LONG) -> None:
        """*checks* of the services that handle dead letters, by name; called if one was sent longer ago than *long*."""
        self._checks = checks
        self._long = long
        self._asked_at: float | None = None
        self._said: Sequence[str] = ()
        self._lock = asyncio.Lock()

    async def shown(self, record: ReplayView, *, now: datetime) -> ReplayView:
        """Return *record* with what its sent dead letters wait for."""
        return record.model_copy(update={"waiting_for": await self.reasons(record.sent_since, now=now)})

    async def reasons(self, sent_at: datetime | None, *, now: datetime) -> Sequence[str]:
        """Return what a dead letter sent at *sent_at* waits for; empty: nothing known, or not for long."""
        if sent_at is None or now - sent_at < self._long:
            return ()
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self._asked_at is None or clock() - self._asked_at > _REMEMBERED_SECONDS:
                said = await asyncio.gather(*(check() for check in self._checks.values()))
                self._said = [f"{name}: {why}" for name, why in zip(self._checks, said, strict=True) if why]
                self._asked_at = clock()
        return self._said
