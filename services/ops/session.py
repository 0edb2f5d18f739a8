"""What every store of ops needs: transactions, and the audit. Edge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from shared.runtime.postgres import Connection
from shared.runtime.session import BaseSession

T = TypeVar("T")

#: The actor of what no operator asked for.
ITSELF: Final = "ops"
#: How many rows one statement writes well within its time.
SLICE: Final = 5000

_TAKE_KEY: Final = """
    INSERT INTO ops.idempotency_keys (key, request_digest, made) VALUES ($1, $1, $2)
    ON CONFLICT (key) DO NOTHING
    RETURNING true
"""
_AUDIT: Final = "INSERT INTO ops.audit (actor, action, target, reason, outcome) VALUES ($1, $2, $3, $4, $5)"


class Session(BaseSession):
    """Base of the stores."""

    async def audit(
        self, actor: str, action: str, target: str, reason: str, outcome: str, *, key: str | None = None
    ) -> None:
        """Add an entry to the audit; with the *key* of a form or a request only once, however often it is sent."""

        async def work(connection: Connection) -> None:
            if await first_time(connection, action, target, key):
                await audit(connection, actor, action, target, reason=reason, outcome=outcome)

        await self._transaction(work)


async def first_time(connection: Connection, action: str, target: str, key: str | None) -> bool:
    """Return whether *action* on *target* is asked for the first time with *key*, in the caller's transaction."""
    if not key:
        return True
    taken = hashlib.sha256(f"audit {action} {target} {key}".encode()).hexdigest()
    return bool(await connection.fetchval(_TAKE_KEY, taken, action))


async def audit(
    connection: Connection, actor: str, action: str, target: str, *, reason: str, outcome: str = ""
) -> None:
    """Write down who did what to which target, in the caller's transaction."""
    await connection.execute(_AUDIT, actor, action, target, reason, outcome)


def slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut *rows* into pieces of `SLICE`."""
    for begin in range(0, len(rows), SLICE):
        yield rows[begin : begin + SLICE]
