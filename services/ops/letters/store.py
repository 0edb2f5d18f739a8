"""
What is written and read of letters? Edge: SQL, in schema `ops`.

A batch of letters is one transaction: those that a replay brought back are found by their mark, the others by their
digest. So whatever is handed over twice is there once.

Pages go down by the letters' numbers: what arrives while somebody reads has a higher one, and moves nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from services.ops.letters.letter import Letter
from services.ops.letters.views import (
    AuditFilter,
    AuditView,
    Filter,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
    WrongStatus,
)
from services.ops.letters.where import by_number, where
from shared.runtime.postgres import Connection, Pool, Record, acquired, in_transaction

#: Told, in the same transaction, that what a replay sent failed again: which replay, the letter's number, the error.
Failed: TypeAlias = Callable[[Connection, UUID, int, str], Awaitable[None]]

_END: Final = 2**63 - 1
_AT_ONCE: Final = 2000

# In order of their numbers, so that two writers can not deadlock.
_LOCK_RETURNED: Final = """
    SELECT number FROM ops.letters WHERE number = ANY($1::bigint[]) ORDER BY number FOR NO KEY UPDATE
"""
_RETURN: Final = """
    UPDATE ops.letters l SET
        status         = CASE WHEN l.status = 'replaying' AND l.replay_id = r.replay_id THEN 'open' ELSE l.status END,
        returns        = CASE WHEN l.status = 'replaying' AND l.replay_id = r.replay_id THEN 1 ELSE 0 END + l.returns,
        error_code     = r.error_code,
        error_class    = r.error_class,
        error_text     = r.error_text,
        traceback      = r.traceback,
        attempts       = r.attempts,
        last_failed_at = greatest(l.last_failed_at, r.last_failed_at),
        fingerprint    = r.fingerprint
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::integer[], $10::timestamptz[], $11::text[])
        AS r (number, replay_id, queue, event_id, error_code, error_class, error_text, traceback, attempts,
              last_failed_at, fingerprint)
    WHERE l.number = ANY($1::bigint[]) AND l.number = r.number
      AND l.queue = r.queue AND l.event_id IS NOT DISTINCT FROM r.event_id
    RETURNING l.number
"""
# A letter that was settled and failed once more since is open again; the very same failure handed over twice is not.
_KEEP: Final = """
    INSERT INTO ops.letters AS l
        (digest, queue, exchange, routing_key, content_type, headers, body, event_type, event_id, training_id,
         error_code, error_class, error_text, traceback, attempts, first_failed_at, last_failed_at, fingerprint)
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::bytea[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::integer[], $16::timestamptz[],
        $17::timestamptz[], $18::text[])
    ON CONFLICT (digest) DO UPDATE SET
        status         = 'open',
        error_code     = excluded.error_code,
        error_class    = excluded.error_class,
        error_text     = excluded.error_text,
        traceback      = excluded.traceback,
        attempts       = excluded.attempts,
        last_failed_at = excluded.last_failed_at,
        fingerprint    = excluded.fingerprint
    WHERE l.status = 'resolved' AND excluded.last_failed_at > l.last_failed_at
"""

_LINE: Final = """
    number, status, queue, event_type, event_id, training_id, user_id, error_code, error_class, error_text, attempts,
    returns, first_failed_at, last_failed_at, archived_at, status_at, fingerprint, replay_id,
    octet_length(body) AS body_bytes
"""
_FIND: Final = f"""
    SELECT {_LINE}, exchange, routing_key, content_type, headers::text AS headers, body, traceback
    FROM ops.letters WHERE number = $1
"""  # noqa: S608 (our own columns)

_AUDIT_CONDITIONS: Final = {"actor": "actor = {}", "action": "action = {}", "target": "target = {}"}

# From one fingerprint straight to the next, however many letters each has; then each is counted from its index alone.
# By their oldest letters, which do not change: so pages are stable, and a new kind of failure stands first.
_GROUPS: Final = """
    WITH RECURSIVE kinds AS (
        (SELECT fingerprint FROM ops.letters ORDER BY fingerprint LIMIT 1)
        UNION ALL
        SELECT (SELECT fingerprint FROM ops.letters WHERE fingerprint > kinds.fingerprint ORDER BY fingerprint LIMIT 1)
        FROM kinds WHERE kinds.fingerprint IS NOT NULL
    ), page AS (
        SELECT kinds.fingerprint, ends.oldest, ends.newest
        FROM kinds, LATERAL (
            SELECT
                (SELECT number FROM ops.letters WHERE fingerprint = kinds.fingerprint ORDER BY number LIMIT 1)
                    AS oldest,
                (SELECT number FROM ops.letters WHERE fingerprint = kinds.fingerprint ORDER BY number DESC LIMIT 1)
                    AS newest
        ) AS ends
        WHERE kinds.fingerprint IS NOT NULL AND ends.oldest < $1
          AND ($3::text IS NULL OR EXISTS (
              SELECT FROM ops.letters WHERE fingerprint = kinds.fingerprint AND status = $3))
        ORDER BY ends.oldest DESC
        LIMIT $2
    )
    SELECT page.fingerprint, page.oldest, page.newest, counted.*, example.queue, example.error_code,
           example.error_class, example.error_text
    FROM page, LATERAL (
        SELECT count(*) FILTER (WHERE status = 'open') AS open,
               count(*) FILTER (WHERE status = 'replaying') AS replaying,
               count(*) FILTER (WHERE status = 'resolved') AS resolved,
               count(*) FILTER (WHERE status = 'dropped') AS dropped,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '1 hour') AS last_hour,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '1 day') AS last_day,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '7 days') AS last_week,
               min(last_failed_at) AS first_failed_at,
               max(last_failed_at) AS last_failed_at
        FROM ops.letters WHERE fingerprint = page.fingerprint
    ) AS counted, LATERAL (
        SELECT queue, error_code, error_class, error_text FROM ops.letters WHERE number = page.newest
    ) AS example
    ORDER BY page.oldest DESC
"""

# In order of their numbers, as everywhere.
_MOVE: Final = """
    WITH chosen AS (
        SELECT number FROM ops.letters WHERE {where} ORDER BY {order} LIMIT {limit} FOR NO KEY UPDATE
    )
    UPDATE ops.letters l SET status = {to} FROM chosen WHERE l.number = chosen.number RETURNING l.number
"""
_AUDIT: Final = "INSERT INTO ops.audit (actor, action, target, reason, outcome) VALUES ($1, $2, $3, $4, $5)"

_COUNTS: Final = "SELECT count(*) FROM ops.letters WHERE status = $1"
_WITHOUT_USER: Final = """
    SELECT number, training_id FROM ops.letters
    WHERE user_id IS NULL AND training_id IS NOT NULL AND number > $1
    ORDER BY number LIMIT $2
"""
_SET_USER: Final = "UPDATE ops.letters SET user_id = $2 WHERE training_id = $1 AND user_id IS NULL"
_SETTLED: Final = """
    SELECT number FROM ops.letters
    WHERE status IN ('resolved', 'dropped') AND status_at < clock_timestamp() - $1::interval
      AND number <> ALL($3::bigint[])
    ORDER BY status_at LIMIT $2
"""
# One that was opened again meanwhile stays.
_FORGET: Final = """
    DELETE FROM ops.letters WHERE number IN (
        SELECT number FROM ops.letters
        WHERE number = ANY($1::bigint[]) AND status IN ('resolved', 'dropped')
        FOR UPDATE SKIP LOCKED
    )
"""


async def _nobody(_: Connection, __: UUID, ___: int, ____: str) -> None:
    """No replay is to be told."""


class Store:
    """Letters and the audit; *failed* is told of replays that failed again."""

    def __init__(self, pool: Pool, *, failed: Failed = _nobody) -> None:
        self._pool = pool
        self._failed = failed

    async def keep(self, letters: Sequence[Letter]) -> None:
        """Store *letters*, all of them or none; each once, however often it comes."""

        async def work(connection: Connection) -> None:
            returned = await self._return(connection, [letter for letter in letters if letter.mark])
            # Of several copies the last one stands.
            kept = {
                letter.digest: letter for letter in letters if letter.mark is None or letter.mark.letter not in returned
            }
            if kept:
                await connection.execute(_KEEP, *map(list, zip(*map(_row, kept.values()), strict=True)))
            for letter in letters:
                if letter.mark is not None:
                    await self._failed(connection, letter.mark.replay_id, letter.mark.letter, letter.failure.text)

        await in_transaction(self._pool, work)

    async def _return(self, connection: Connection, marked: Sequence[Letter]) -> set[int]:
        """Those letters that are here again, by their numbers."""
        rows = {letter.mark.letter: (letter.mark, letter) for letter in marked if letter.mark is not None}
        if not rows:
            return set()
        numbers = sorted(rows)
        await connection.execute(_LOCK_RETURNED, numbers)
        values = [
            (
                number,
                mark.replay_id,
                letter.failure.queue,
                letter.event_id,
                letter.failure.code,
                letter.failure.kind,
                letter.failure.text,
                letter.failure.traceback,
                letter.failure.attempts,
                letter.failure.last_at,
                letter.fingerprint,
            )
            for number, (mark, letter) in sorted(rows.items())
        ]
        found = await connection.fetch(_RETURN, *map(list, zip(*values, strict=True)))
        return {row["number"] for row in found}

    # Looking

    async def find(self, number: int) -> LetterView | None:
        """One letter, whole."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_FIND, number)
        return _view(row) if row else None

    async def list_letters(self, wanted: Filter, *, before: int | None, limit: int) -> list[LetterLine]:
        """At most *limit* letters *before* that number, newest first."""
        conditions, values = where(wanted)
        conditions += f" AND number < ${len(values) + 1} ORDER BY {by_number(wanted)} DESC LIMIT ${len(values) + 2}"
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(
                f"SELECT {_LINE} FROM ops.letters WHERE {conditions}",  # noqa: S608 (our own)
                *values,
                _END if before is None else before,
                limit,
            )
        return [LetterLine(**row) for row in rows]

    async def list_groups(self, status: LetterStatus | None, *, before: int | None, limit: int) -> list[GroupView]:
        """At most *limit* groups whose oldest letter came *before* that number, the newest kind of failure first."""
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(_GROUPS, _END if before is None else before, limit, status)
        return [GroupView(**row) for row in rows]

    async def list_audit(self, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditView]:
        """At most *limit* entries *before* that number, newest first."""
        given = wanted.model_dump(exclude_none=True)
        parts = [_AUDIT_CONDITIONS[name].format(f"${place}") for place, name in enumerate(given, start=3)]
        conditions = " AND ".join(["number < $1", *parts])
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(
                f"SELECT * FROM ops.audit WHERE {conditions} ORDER BY number DESC LIMIT $2",  # noqa: S608 (as above)
                _END if before is None else before,
                limit,
                *given.values(),
            )
        return [AuditView(**row) for row in rows]

    async def counts(self) -> LetterCounts:
        """How many letters have each status."""
        async with acquired(self._pool) as connection:
            return LetterCounts(**{status: await connection.fetchval(_COUNTS, status) for status in LetterStatus})

    # Dropping

    async def drop(self, number: int, *, actor: str, reason: str) -> bool:
        """
        Set an open letter aside; False if there is none of that number.

        Raises:
            WrongStatus: if a replay has it, or it is resolved.

        """
        return await self._move_one(number, LetterStatus.OPEN, LetterStatus.DROPPED, actor, reason)

    async def restore(self, number: int, *, actor: str, reason: str) -> bool:
        """
        Open a dropped letter again; False if there is none of that number.

        Raises:
            WrongStatus: if it is not dropped.

        """
        return await self._move_one(number, LetterStatus.DROPPED, LetterStatus.OPEN, actor, reason)

    async def drop_many(self, wanted: Filter, *, actor: str, reason: str) -> int:
        """Set aside every open letter that is *wanted* and here now; how many."""
        return await self._move_many(wanted, LetterStatus.OPEN, LetterStatus.DROPPED, actor, reason)

    async def restore_many(self, wanted: Filter, *, actor: str, reason: str) -> int:
        """Open every dropped letter again that is *wanted* and here now; how many."""
        return await self._move_many(wanted, LetterStatus.DROPPED, LetterStatus.OPEN, actor, reason)

    async def _move_one(self, number: int, was: LetterStatus, to: LetterStatus, actor: str, reason: str) -> bool:
        async def work(connection: Connection) -> bool:
            found = await connection.fetchval(
                "SELECT status FROM ops.letters WHERE number = $1 FOR NO KEY UPDATE", number
            )
            if found is None or found == to:
                return found is not None
            if found != was:
                raise WrongStatus(f"letter {number} is {found}, not {was}")
            await connection.execute("UPDATE ops.letters SET status = $2 WHERE number = $1", number, to)
            await connection.execute(_AUDIT, actor, _ACTIONS[to], f"letter {number}", reason, f"{was} to {to}")
            return True

        return await in_transaction(self._pool, work)

    async def _move_many(self, wanted: Filter, was: LetterStatus, to: LetterStatus, actor: str, reason: str) -> int:
        """Some at a time, each time with its line in the audit: nothing is locked for long, or done without a word."""
        conditions, values = where(wanted.model_copy(update={"status": was}))
        places = [f"${len(values) + place}" for place in range(1, 4)]
        statement = _MOVE.format(
            where=f"{conditions} AND number <= {places[0]}", order=by_number(wanted), limit=places[1], to=places[2]
        )
        target = "letters with " + ", ".join(
            f"{name} {value}" for name, value in wanted.model_dump(exclude_none=True).items()
        )

        async def work(connection: Connection) -> int:
            moved = await connection.fetch(statement, *values, last, _AT_ONCE, to)
            if moved:
                said = f"{len(moved)} letters {was} to {to}"
                await connection.execute(_AUDIT, actor, _ACTIONS[to], target, reason, said)
            return len(moved)

        async with acquired(self._pool) as connection:
            last = await connection.fetchval("SELECT coalesce(max(number), 0) FROM ops.letters")
        total = 0
        while moved := await in_transaction(self._pool, work):
            total += moved
        return total

    # Keeping house

    async def without_user(self, *, after: int, limit: int) -> list[tuple[int, str]]:
        """Letters of which only the training is known, by number: (number, training)."""
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(_WITHOUT_USER, after, limit)
        return [(row["number"], row["training_id"]) for row in rows]

    async def set_user(self, training_id: str, user_id: str) -> None:
        """Remember whose training it is, on all of its letters."""
        async with acquired(self._pool) as connection:
            await connection.execute(_SET_USER, training_id, user_id)

    async def settled(self, keep: timedelta, *, limit: int, without: Collection[int] = ()) -> list[int]:
        """At most *limit* letters that were settled longer ago than *keep*, the oldest first, *without* those."""
        async with acquired(self._pool) as connection:
            return [row["number"] for row in await connection.fetch(_SETTLED, keep, limit, list(without))]

    async def forget(self, numbers: Sequence[int]) -> None:
        """Delete these letters, all of them or none; what is not settled any more, or locked, stays."""
        async with acquired(self._pool) as connection:
            await connection.execute(_FORGET, numbers)


_ACTIONS: Final = {LetterStatus.DROPPED: "letter.dropped", LetterStatus.OPEN: "letter.restored"}


def _row(letter: Letter) -> tuple[Any, ...]:
    failure = letter.failure
    return (
        letter.digest,
        failure.queue,
        failure.exchange,
        failure.routing_key,
        letter.content_type,
        letter.headers,
        letter.body,
        letter.event_type,
        letter.event_id,
        letter.training_id,
        failure.code,
        failure.kind,
        failure.text,
        failure.traceback,
        failure.attempts,
        failure.first_at,
        failure.last_at,
        letter.fingerprint,
    )


def _view(row: Record) -> LetterView:
    found = dict(row)
    body: bytes = found.pop("body")
    headers = json.loads(found.pop("headers"))
    return LetterView(**found, headers=headers, body_base64=base64.b64encode(body).decode(), body_text=_as_text(body))


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
