"""
What is written and read of letters? Edge: SQL, in schema `ops`.

A batch of letters is one transaction: those that a replay brought back are found by their mark, the others by their
digest. So whatever is handed over twice is there once.

Pages go down by the letters' numbers: what arrives while somebody reads has a higher one, and moves nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from services.ops.letters.letter import Letter
from services.ops.letters.views import (
    AuditFilter,
    AuditView,
    Changed,
    Filter,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
    NoLetter,
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

# As above.
_LOCK: Final = (
    "SELECT number, status FROM ops.letters WHERE number = ANY($1::bigint[]) ORDER BY number FOR NO KEY UPDATE"
)
_MOVE_NAMED: Final = "UPDATE ops.letters SET status = $2 WHERE number = ANY($1::bigint[])"
_AUDIT_NAMED: Final = """
    INSERT INTO ops.audit (actor, action, target, reason, outcome)
    SELECT $1, $2, 'letter ' || number, $3, outcome FROM unnest($4::bigint[], $5::text[]) AS l (number, outcome)
"""
_COUNT_FOUND: Final = "SELECT status, count(*), max(number) AS newest FROM ops.letters WHERE {} GROUP BY status"
_MISSING: Final = """
    SELECT number FROM unnest($1::bigint[]) AS wanted (number)
    WHERE NOT EXISTS (SELECT FROM ops.letters l WHERE l.number = wanted.number)
    LIMIT 1
"""

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
    RETURNING number
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
        return await self._move_one(number, _Move.drop(actor, reason))

    async def restore(self, number: int, *, actor: str, reason: str) -> bool:
        """
        Open a dropped letter again; False if there is none of that number.

        Raises:
            WrongStatus: if it is not dropped.

        """
        return await self._move_one(number, _Move.restore(actor, reason))

    async def preview_move(self, wanted: Sequence[int] | Filter, was: LetterStatus, *, up_to: int | None) -> Changed:
        """
        What would become of the *wanted* letters *up_to* that number, if those with status *was* were moved.

        Raises:
            NoLetter: if one is named that is not there.

        """
        async with acquired(self._pool) as connection:
            counts, newest = await _count(connection, wanted, up_to)
        return Changed(letters=counts.pop(was, 0), unchanged=counts, newest=newest)

    async def drop_many(
        self, wanted: Sequence[int] | Filter, *, actor: str, reason: str, up_to: int | None = None
    ) -> Changed:
        """Set aside every open letter that is *wanted* and here now, as `preview_move` says."""
        return await self._move_all(wanted, _Move.drop(actor, reason), up_to)

    async def restore_many(
        self, wanted: Sequence[int] | Filter, *, actor: str, reason: str, up_to: int | None = None
    ) -> Changed:
        """Open every dropped letter again that is *wanted* and here now, as `preview_move` says."""
        return await self._move_all(wanted, _Move.restore(actor, reason), up_to)

    async def _move_all(self, wanted: Sequence[int] | Filter, move: _Move, up_to: int | None) -> Changed:
        planned = await self.preview_move(wanted, move.was, up_to=up_to)
        if isinstance(wanted, Filter):
            moved = await self._move_found(wanted, move, planned)
        else:
            some = [wanted[begin : begin + _AT_ONCE] for begin in range(0, len(wanted), _AT_ONCE)]
            moved = sum([await self._move_named(each, move) for each in some])
        return planned.model_copy(update={"letters": moved})

    async def _move_one(self, number: int, move: _Move) -> bool:
        async def work(connection: Connection) -> bool:
            found = await _lock(connection, [number])
            if number not in found:
                return False
            if found[number] not in (move.was, move.to):
                raise WrongStatus(f"letter {number} is {found[number]}, not {move.was}")
            await _move(connection, found, move)
            return True

        return await in_transaction(self._pool, work)

    async def _move_named(self, numbers: Sequence[int], move: _Move) -> int:
        async def work(connection: Connection) -> int:
            return await _move(connection, await _lock(connection, numbers), move)

        return await in_transaction(self._pool, work)

    async def _move_found(self, wanted: Filter, move: _Move, planned: Changed) -> int:
        """Some at a time, each time with its line in the audit: nothing is locked for long, or done without a word."""
        conditions, values = where(wanted.model_copy(update={"status": move.was}))
        places = [f"${len(values) + place}" for place in range(1, 4)]
        statement = _MOVE.format(
            where=f"{conditions} AND number <= {places[0]}", order=by_number(wanted), limit=places[1], to=places[2]
        )
        target = "letters with " + ", ".join(
            f"{name} {value}" for name, value in wanted.model_dump(exclude_none=True).items()
        )
        total = 0

        async def work(connection: Connection) -> int:
            moved = await connection.fetch(statement, *values, planned.newest or 0, _AT_ONCE, move.to)
            said = f"{len(moved)} {'letter' if len(moved) == 1 else 'letters'} {move.was} to {move.to}"
            if not total and planned.unchanged:
                said += "; unchanged: " + ", ".join(f"{count} {status}" for status, count in planned.unchanged.items())
            if moved or not total:
                await connection.execute(_AUDIT, move.actor, _ACTIONS[move.to], target, move.reason, said)
            return len(moved)

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

        async def work(connection: Connection) -> None:
            gone = sorted(row["number"] for row in await connection.fetch(_FORGET, numbers))
            if gone:
                target = f"letters {gone[0]} to {gone[-1]}"
                said = f"{len(gone)} letters forgotten"
                await connection.execute(_AUDIT, "ops", "letter.forgotten", target, "settled long ago", said)

        await in_transaction(self._pool, work)


_ACTIONS: Final = {LetterStatus.DROPPED: "letter.dropped", LetterStatus.OPEN: "letter.restored"}


@dataclass(frozen=True, slots=True)
class _Move:
    """Letters go from one status to another, because somebody says so."""

    was: LetterStatus
    to: LetterStatus
    actor: str
    reason: str

    @classmethod
    def drop(cls, actor: str, reason: str) -> _Move:
        return cls(LetterStatus.OPEN, LetterStatus.DROPPED, actor, reason)

    @classmethod
    def restore(cls, actor: str, reason: str) -> _Move:
        return cls(LetterStatus.DROPPED, LetterStatus.OPEN, actor, reason)


async def _lock(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Lock letters; the status of each that is there."""
    return {row["number"]: row["status"] for row in await connection.fetch(_LOCK, numbers)}


async def _move(connection: Connection, locked: Mapping[int, str], move: _Move) -> int:
    """Move those that can be; how many. The audit says of each what came of it."""
    moved = [number for number, status in locked.items() if status == move.was]
    said = [
        f"{move.was} to {move.to}" if status == move.was else f"unchanged: it is {status}" for status in locked.values()
    ]
    await connection.execute(_MOVE_NAMED, moved, move.to)
    await connection.execute(_AUDIT_NAMED, move.actor, _ACTIONS[move.to], move.reason, list(locked), said)
    return len(moved)


async def _count(
    connection: Connection, wanted: Sequence[int] | Filter, up_to: int | None
) -> tuple[dict[LetterStatus, int], int | None]:
    """How many letters are *wanted*, by status, and the highest number among them."""
    if isinstance(wanted, Filter):
        conditions, values = where(wanted)
    else:
        conditions, values = "number = ANY($1::bigint[])", [wanted]
        missing = await connection.fetchval(_MISSING, wanted)
        if missing is not None:
            raise NoLetter(f"there is no letter {missing}")
    conditions += f" AND number <= ${len(values) + 1}"
    rows = await connection.fetch(_COUNT_FOUND.format(conditions), *values, _END if up_to is None else up_to)
    newest = max((row["newest"] for row in rows), default=None)
    return {LetterStatus(row["status"]): row["count"] for row in rows}, newest


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
