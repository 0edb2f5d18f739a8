"""
Session lock: a named advisory lock of Postgres, for work that one process at a time does. Edge.

Postgres releases it as soon as the process dies. A process that is frozen, or whose machine or network is gone, ends
nothing itself; so the holder pings, and Postgres ends a session that is silent for some seconds. The lock is not one of
a transaction, because none may stay open while other services are asked.

A process that wakes up after that has lost the lock, and learns it when it next uses the session. What it does until
then must be harmless beside another process, or use the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from shared.contract.errors import ModelswapError
from shared.runtime.postgres import Connection, Pool, acquired
from shared.runtime.postgres_errors import translated_errors

#: How often processes without the lock should try to take it.
STAND_BY_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 5.0
_PINGS: Final = 4

_TRY: Final = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
_END_IF_SILENT: Final = "SELECT set_config('idle_session_timeout', $1, false)"
_UNLOCK: Final = """
    SELECT pg_advisory_unlock(hashtextextended($1, 0)), set_config('idle_session_timeout', '0', false)
"""


class SessionLock:
    """A lock that is held."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Borrow the session that holds the lock; raise DependencyDown if it is lost."""
        async with self._turn:
            with translated_errors(self._connection):
                yield self._connection

    async def keep(self, every_seconds: float) -> None:
        """Ping until the lock is lost."""
        with suppress(ModelswapError):
            while True:
                await asyncio.sleep(every_seconds)
                async with self.session() as connection:
                    await connection.execute("SELECT true")


@asynccontextmanager
async def session_lock(
    pool: Pool, name: str, *, silent_seconds: float = _SILENT_SECONDS
) -> AsyncIterator[SessionLock | None]:
    """
    Hold the lock *name*; None if another process holds it. It is lost when we are silent for *silent_seconds*.

    Raises:
        DependencyDown: if Postgres is away, or the lock was lost meanwhile.

    """
    async with acquired(pool) as connection:
        if not await connection.fetchval(_TRY, name):
            yield None
            return
        lock = SessionLock(connection)
        keeping = asyncio.create_task(lock.keep(silent_seconds / _PINGS))
        try:
            await connection.execute(_END_IF_SILENT, f"{silent_seconds * 1000:.0f}ms")
            yield lock
        finally:
            # Not while it pings: to cancel a statement takes another connection.
            async with lock.session():
                keeping.cancel()
            await connection.execute(_UNLOCK, name)
