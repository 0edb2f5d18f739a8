"""What every store of ops needs: transactions, and the audit. Edge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from shared.runtime.postgres import Connection
from shared.runtime.session import BaseSession

T = TypeVar("T")

#: The actor of what no operator asked for.
ITSELF: Final = "ops"
#: How many rows one statement writes well within its time.
SLICE: Final = 5000

#: Keeps the key $1 of a request, its digest and what it makes; returns nothing if the key is kept already.
TAKE_KEY: Final = """
    INSERT INTO ops.idempotency_keys (key, request_digest, made) VALUES ($1, $2, $3)
    ON CONFLICT (key) DO NOTHING
    RETURNING true
"""
_GIVE_KEY_BACK: Final = "DELETE FROM ops.idempotency_keys WHERE key = $1"
_AUDIT: Final = "INSERT INTO ops.audit (actor, action, target, reason, outcome) VALUES ($1, $2, $3, $4, $5)"


class Session(BaseSession):
    """Base of the stores."""

    async def audit(
        self,
        actor: str,
        action: str,
        target: str,
        reason: str,
        outcome: str,
        *,
        key: str | None = None,
        refused: str | None = None,
    ) -> None:
        """
        Add an entry to the audit; with the *key* of a request, the same entry only once, however often it is sent.

        *refused* is the outcome of the entry that this one says the refusal of: it may be added again.
        """

        async def work(connection: Connection) -> None:
            if key and refused is not None:
                await connection.execute(_GIVE_KEY_BACK, _digest(key, actor, action, target, reason, refused))
            elif not await first_time(connection, key, actor, action, target, reason, outcome):
                return
            await audit(connection, actor, action, target, reason=reason, outcome=outcome)

        await self._transaction(work)


async def first_time(connection: Connection, key: str | None, *said: str) -> bool:
    """Return whether this is *said* for the first time with *key*, in the caller's transaction."""
    digest = _digest(key, *said) if key else None
    return digest is None or bool(await connection.fetchval(TAKE_KEY, digest, digest, "audited"))


def _digest(key: str, *said: str) -> str:
    # With a space, which no client's own key has: else one could take it before.
    return f"audit {hashlib.sha256(json.dumps([key, *said]).encode()).hexdigest()}"


async def audit(
    connection: Connection, actor: str, action: str, target: str, *, reason: str, outcome: str = ""
) -> None:
    """Write down who did what to which target, in the caller's transaction."""
    await connection.execute(_AUDIT, actor, action, target, reason, outcome)


def slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut *rows* into pieces of `SLICE`."""
    for begin in range(0, len(rows), SLICE):
        yield rows[begin : begin + SLICE]
