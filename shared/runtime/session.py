"""What every store needs: a pool, transactions, single statements, and a table of idempotency keys. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from shared.runtime.postgres import Connection, Pool, Record, acquired, in_transaction

T = TypeVar("T")

_KEEP_KEYS: Final = timedelta(days=1)
#: Of the schema {0}: each has such a table.
PRUNE_KEYS: Final = """
    DELETE FROM {0}.idempotency_keys
    WHERE key = ANY(ARRAY(SELECT key FROM {0}.idempotency_keys
                          WHERE created_at < statement_timestamp() - $1::interval LIMIT $2))
    RETURNING true
"""


class BaseSession:
    """Base of the use cases of a store, on a pool of connections that act as the service's role."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await in_transaction(self._pool, work)

    async def _fetch(self, statement: str, *values: object) -> list[Record]:
        async with acquired(self._pool) as connection:
            return await connection.fetch(statement, *values)

    async def _execute(self, statement: str, *values: object) -> None:
        async with acquired(self._pool) as connection:
            await connection.execute(statement, *values)

    async def _prune_keys(self, schema: str, *, limit: int) -> int:
        """Delete at most *limit* old idempotency keys of *schema*; return how many were deleted."""
        return len(await self._fetch(PRUNE_KEYS.format(schema), _KEEP_KEYS, limit))
