"""What all use cases share: transactions, idempotency keys, and the notice of changes. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.contract.idempotency import IdempotencyKey
from shared.runtime.postgres import Connection, Pool
from shared.runtime.postgres_errors import Conflict
from shared.runtime.session import BaseSession

T = TypeVar("T")

_FIND_KEY: Final = "SELECT request_digest, made FROM notifier.idempotency_keys WHERE key = $1"
_TAKE_KEY: Final = """
    INSERT INTO notifier.idempotency_keys (key, request_digest, made) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING
    RETURNING true
"""


class Session(BaseSession):
    """Base of the use cases."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        #: Set after each commit that may make a delivery due.
        self.changed = asyncio.Event()

    async def _change(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        done = await self._transaction(work)
        self.changed.set()
        return done


async def once(connection: Connection, key: IdempotencyKey | None, make: Callable[[], Awaitable[str]]) -> str:
    """
    Return what *make* returns; with a *key* that was used for the same request before, what it returned then.

    Raises:
        KeyReused: if *key* came with another request before.

    """
    if key is None:
        return await make()
    used = await connection.fetchrow(_FIND_KEY, key.key)
    if used is not None:
        key.check(used["request_digest"])
        return str(used["made"])
    made = await make()
    if not await connection.fetchval(_TAKE_KEY, key.key, key.digest, made):
        raise Conflict(f"the Idempotency-Key {key.key} was used just now")
    return made
