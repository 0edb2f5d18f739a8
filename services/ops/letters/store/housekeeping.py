"""Housekeeping of dead letters: whose trainings they are about, closing, and purging what is old. Edge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final

from services.ops.letters.letter import CLOSED_QUEUES
from services.ops.session import ITSELF, Session, audit
from shared.runtime.postgres import Connection

_WITHOUT_USER: Final = """
    SELECT number, training_id FROM ops.letters
    WHERE user_id IS NULL AND training_id IS NOT NULL AND number > $1
    ORDER BY number LIMIT $2
"""
# Locked in order of their numbers, so that two transactions cannot block each other.
_SET_USERS: Final = """
    WITH chosen AS (
        SELECT number, f.user_id FROM ops.letters l JOIN unnest($1::bigint[], $2::text[]) AS f (number, user_id)
        USING (number) WHERE l.user_id IS NULL
        ORDER BY number FOR NO KEY UPDATE OF l
    )
    UPDATE ops.letters l SET user_id = chosen.user_id FROM chosen WHERE l.number = chosen.number
"""
_OPEN: Final = """
    SELECT number, training_id FROM ops.letters
    WHERE status = 'open' AND training_id IS NOT NULL AND queue = ANY($3::text[]) AND number > $1
    ORDER BY number LIMIT $2
"""
# As above.
_CLOSE: Final = """
    WITH chosen AS (
        SELECT number, f.reason FROM ops.letters l JOIN unnest($1::bigint[], $2::text[]) AS f (number, reason)
        USING (number) WHERE l.status = 'open'
        ORDER BY number FOR NO KEY UPDATE OF l
    ), closed AS (
        UPDATE ops.letters l SET status = 'resolved', status_reason = chosen.reason
        FROM chosen WHERE l.number = chosen.number RETURNING l.number, chosen.reason
    )
    INSERT INTO ops.audit (actor, action, target, reason, outcome)
    SELECT $3, 'dead_letter.resolved', 'dead letter ' || number, reason, 'open to resolved' FROM closed
    ORDER BY number
"""
SETTLED: Final = """
    SELECT number FROM ops.letters
    WHERE status IN ('resolved', 'dropped') AND status_at < statement_timestamp() - $1::interval
      AND number <> ALL($3::bigint[])
    ORDER BY status_at LIMIT $2
"""
# One that was opened again meanwhile stays.
FORGET_LETTERS: Final = """
    DELETE FROM ops.letters WHERE number = ANY(ARRAY(
        SELECT number FROM ops.letters
        WHERE number = ANY($1::bigint[]) AND (status IN ('resolved', 'dropped')) IS TRUE
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING number
"""


class Housekeeping(Session):
    """What runs in the background."""

    async def without_user(self, *, after: int, limit: int) -> list[tuple[int, str]]:
        """Return (number, training id) of dead letters numbered above *after* whose user is not known."""
        return [(row["number"], row["training_id"]) for row in await self._fetch(_WITHOUT_USER, after, limit)]

    async def set_users(self, users: Mapping[int, str]) -> None:
        """Store whose trainings they are, by the dead letters' numbers."""
        await self._execute(_SET_USERS, list(users), list(users.values()))

    async def open_of_trainings(self, *, after: int, limit: int) -> list[tuple[int, str]]:
        """Return (number, training id) of open dead letters numbered above *after* that their trainings' end closes."""
        return [(row["number"], row["training_id"]) for row in await self._fetch(_OPEN, after, limit, CLOSED_QUEUES)]

    async def close(self, reasons: Mapping[int, str]) -> None:
        """Resolve those of these dead letters that are open, each for its reason."""
        await self._execute(_CLOSE, list(reasons), list(reasons.values()), ITSELF)

    async def settled(self, keep: timedelta, *, limit: int, without: Collection[int] = ()) -> list[int]:
        """Return the numbers of at most *limit* dead letters settled longer ago than *keep*, oldest first."""
        return [row["number"] for row in await self._fetch(SETTLED, keep, limit, list(without))]

    async def forget(self, numbers: Sequence[int]) -> None:
        """Delete dead letters, all of them or none; one that is locked or not settled any more stays."""

        async def work(connection: Connection) -> None:
            gone = sorted(row["number"] for row in await connection.fetch(FORGET_LETTERS, numbers))
            if gone:
                target, outcome = f"dead letters {gone[0]} to {gone[-1]}", f"{len(gone)} dead letters forgotten"
                reason = "settled long ago"
                await audit(connection, ITSELF, "dead_letter.forgotten", target, reason=reason, outcome=outcome)

        await self._transaction(work)

    async def prune_keys(self, *, limit: int) -> int:
        """Delete at most *limit* old idempotency keys; return how many were deleted."""
        return await self._prune_keys("ops", limit=limit)
