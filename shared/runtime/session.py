"""What every store needs: a pool, transactions and single statements. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.runtime.postgres import Connection, Pool, Record, acquired, in_transaction

T = TypeVar("T")


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
