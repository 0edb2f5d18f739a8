"""The store of recoveries: what was done about overdue trainings. Their SQL, in schema `ops`. Edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.ops.reconcile.plan import MOST_GETS
from services.ops.reconcile.trainings import Memory, Unfinished
from services.ops.reconcile.views import RecoveryCounts, RecoveryOutcome, RecoveryView, RoundView
from services.ops.session import ITSELF, Session, audit
from shared.runtime.postgres import Connection
from shared.runtime.session_lock import SessionLock, session_lock

_KEEP: Final = timedelta(days=30)

_RECALL: Final = """
    SELECT ref, looks, absences, gets, asked_at, look_at FROM ops.recoveries WHERE ref = ANY($1::uuid[])
"""
_RECORD_CHECK: Final = """
    INSERT INTO ops.recoveries AS r (ref, training_id, user_id, noticed_at, looks, absences, look_at, trouble)
    VALUES ($1, $2, $3, $4, 1, $5, $6, $7)
    ON CONFLICT (ref) DO UPDATE SET
        training_id = coalesce(r.training_id, excluded.training_id),
        looks       = r.looks + 1,
        absences    = CASE excluded.absences WHEN 0 THEN 0 ELSE r.absences + 1 END,
        look_at     = excluded.look_at,
        trouble     = excluded.trouble
"""
_COUNT_GET: Final = """
    INSERT INTO ops.recoveries AS r (ref, training_id, user_id, noticed_at, gets, asked_at)
    VALUES ($1, $2, $3, $4, 1, $4)
    ON CONFLICT (ref) DO UPDATE SET gets = r.gets + 1, asked_at = excluded.asked_at WHERE r.gets < $5
    RETURNING true
"""
# A recovered training may still be given up, if its model never comes.
_SETTLE: Final = """
    INSERT INTO ops.recoveries AS r (ref, training_id, user_id, noticed_at, outcome, settled_at)
    VALUES ($1, $2, $3, $4, $5, $4)
    ON CONFLICT (ref) DO UPDATE SET
        training_id = coalesce(r.training_id, excluded.training_id),
        outcome     = excluded.outcome,
        settled_at  = excluded.settled_at
    WHERE r.outcome IS NULL OR (r.outcome = 'recovered' AND excluded.outcome = 'given_up')
    RETURNING true
"""
_OPEN: Final = "SELECT ref FROM ops.recoveries WHERE outcome IS NULL"
_FORGET: Final = "DELETE FROM ops.recoveries WHERE ref = ANY($1::uuid[]) AND outcome IS NULL"
PRUNE_RECOVERIES: Final = """
    DELETE FROM ops.recoveries
    WHERE ref = ANY(ARRAY(SELECT ref FROM ops.recoveries WHERE noticed_at < $1 ORDER BY noticed_at LIMIT 1000))
      AND (settled_at < $1) IS TRUE
"""

_NOTE_ROUND: Final = """
    UPDATE ops.reconciliation
    SET last_round_at = $1, last_success_at = $1, overdue = $2, calls_left = $3, trouble = ''
    WHERE only_one
"""
_NOTE_TROUBLE: Final = """
    UPDATE ops.reconciliation SET last_round_at = $1, calls_left = $2, trouble = $3 WHERE only_one
"""
_LAST_ROUND: Final = """
    SELECT last_round_at AS at, last_success_at, overdue, calls_left, trouble FROM ops.reconciliation WHERE only_one
"""
_COUNT: Final = """
    SELECT outcome, count(*) FILTER (WHERE settled_at > $1::timestamptz - interval '1 hour') AS last_hour,
           count(*) AS last_day
    FROM ops.recoveries
    WHERE settled_at > $1::timestamptz - interval '1 day'
    GROUP BY outcome
"""
_SET_ASIDE: Final = "SELECT count(*) FROM ops.recoveries WHERE outcome IS NULL AND trouble <> ''"
# Those that need an operator come first.
_LATEST: Final = """
    SELECT ref, training_id, user_id, noticed_at, looks, gets, look_at, trouble, outcome, settled_at
    FROM ops.recoveries
    ORDER BY (outcome IS NULL AND trouble <> '') DESC, noticed_at DESC
    LIMIT $1
"""


class Turn:
    """The turn of the one process that reconciles."""

    def __init__(self, lock: SessionLock) -> None:
        self._lock = lock

    async def note_round(self, now: datetime, *, overdue: int, calls_left: int) -> None:
        """
        Store that a round succeeded.

        Raises:
            DependencyDown: if the lock was lost, as after a freeze: another process may be at work.

        """
        async with self._lock.session() as connection:
            await connection.execute(_NOTE_ROUND, now, overdue, calls_left)
            await connection.execute(PRUNE_RECOVERIES, now - _KEEP)


class Store(Session):
    """The tables `ops.recoveries` and `ops.reconciliation`."""

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Turn | None]:
        """Hold the lock of the one process that reconciles; None if another process has it."""
        async with session_lock(self._pool, "ops.reconciliation") as lock:
            yield None if lock is None else Turn(lock)

    async def recall(self, refs: Sequence[UUID]) -> Mapping[UUID, Memory]:
        """Return what was done about these trainings so far, by ref."""
        return {ref: Memory(*memory) for ref, *memory in await self._fetch(_RECALL, refs)}

    async def record_check(
        self, training: Unfinished, now: datetime, *, look_at: datetime, is_absent: bool = False, trouble: str = ""
    ) -> None:
        """Store a check, when the next one is due, and why this one failed if it did."""
        await self._fetch(_RECORD_CHECK, *_who(training), now, int(is_absent), look_at, trouble)

    async def count_get(self, training: Unfinished, now: datetime) -> bool:
        """Count a request to Replicate for this training alone; False if there were enough."""
        return bool(await self._fetch(_COUNT_GET, *_who(training), now, MOST_GETS))

    async def settle(self, training: Unfinished, outcome: RecoveryOutcome, reason: str, now: datetime) -> bool:
        """Store and audit the outcome of a training; True the first time."""

        async def work(connection: Connection) -> bool:
            is_new = bool(await connection.fetchval(_SETTLE, *_who(training), now, outcome))
            if is_new:
                target = f"training {training.training_id or training.ref}"
                await audit(
                    connection, ITSELF, f"training.{outcome}", target, reason=reason, outcome="reported to state"
                )
            return is_new

        return await self._transaction(work)

    async def forget_others(self, unfinished: set[UUID]) -> None:
        """Delete those that ended by themselves: all without an outcome that are not *unfinished*."""
        ended = [row["ref"] for row in await self._fetch(_OPEN) if row["ref"] not in unfinished]
        if ended:
            await self._fetch(_FORGET, ended)

    async def note_trouble(self, now: datetime, trouble: str, *, calls_left: int) -> None:
        await self._fetch(_NOTE_TROUBLE, now, calls_left, trouble)

    async def last_round(self) -> RoundView:
        (row,) = await self._fetch(_LAST_ROUND)
        return RoundView(**row)

    async def counts(self, now: datetime) -> Mapping[RecoveryOutcome, RecoveryCounts]:
        """Return how many trainings had each outcome; outcomes without one are missing."""
        rows = await self._fetch(_COUNT, now)
        return {RecoveryOutcome(row["outcome"]): RecoveryCounts(**row) for row in rows}

    async def set_aside(self) -> int:
        """Return how many trainings could not be checked last time."""
        (row,) = await self._fetch(_SET_ASIDE)
        return int(row["count"])

    async def latest(self, limit: int) -> list[RecoveryView]:
        """Return the trainings that are set aside, then the latest ones."""
        return [RecoveryView(**row) for row in await self._fetch(_LATEST, limit)]


def _who(training: Unfinished) -> tuple[UUID, str | None, str]:
    return training.ref, training.training_id, training.user_id
