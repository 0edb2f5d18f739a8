"""Store what was read of the events log, with the position, as the one process that reads it. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.notifier.message import StoredEvent
from services.notifier.position import Position
from services.notifier.store.deliveries import add_events
from services.notifier.store.session import Session
from shared.runtime.session_lock import SessionLock, session_lock

_POSITION: Final = """SELECT published_at, "offset", fingerprint FROM notifier.position WHERE only_one"""
# If a crash takes the last of them, it takes their deliveries too, and they are read again. So this does not wait for
# the disk.
_MOVE: Final = """
    UPDATE notifier.position SET
        published_at = $1, "offset" = $2, fingerprint = $3,
        gap          = coalesce($4, gap),
        gap_at       = CASE WHEN $4::text IS NULL THEN gap_at ELSE clock_timestamp() END
    WHERE only_one AND set_config('synchronous_commit', 'off', true) = 'off'
"""
_LATE_GAP: Final = "SELECT gap FROM notifier.position WHERE gap_at > clock_timestamp() - interval '1 day'"


class Turn:
    """The right to read: in the session that holds the lock, so that nothing is stored without it."""

    def __init__(self, lock: SessionLock, changed: asyncio.Event) -> None:
        self._lock = lock
        self._changed = changed

    async def position(self) -> Position:
        """Return the last event that was stored."""
        async with self._lock.session() as connection:
            row = await connection.fetchrow(_POSITION)
        assert row is not None  # noqa: S101 (the migration made it)
        return Position(row["published_at"], row["offset"], row["fingerprint"])

    async def store(self, events: Sequence[StoredEvent], position: Position, gap: str | None) -> None:
        """Store *events* as `Deliveries.add` does, the new *position*, and the *gap* before them if there is one."""
        async with self._lock.session() as connection, connection.transaction():
            if events:
                await add_events(connection, events)
            at = (position.time, position.offset, position.fingerprint)
            await connection.execute(_MOVE, *at, gap)
        self._changed.set()

    async def check(self) -> None:
        """Raise DependencyDown if the lock is lost."""
        async with self._lock.session() as connection:
            await connection.execute("SELECT true")


class Reading(Session):
    """What the reader needs."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn | None]:
        """Hold the lock of the one process that reads; None if another one has it."""
        async with session_lock(self._pool, "notifier.events_log") as lock:
            yield None if lock is None else Turn(lock, self.changed)

    async def late_gap(self) -> str | None:
        """Return the last gap, if it was less than a day ago."""
        rows = await self._fetch(_LATE_GAP)
        return rows[0]["gap"] if rows else None
