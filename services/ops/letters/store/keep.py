"""Store dead letters: new ones, those that came again, and those that a replay brought back. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias
from uuid import UUID

from services.ops.letters.letter import DeadLetter, ReplayMark
from services.ops.session import Session
from shared.contract.topology import DELIVERIES_QUEUE
from shared.runtime.postgres import Connection, Pool, Record

#: Called, in the same transaction, when a replayed dead letter failed again: the replay, the number, the error.
Failed: TypeAlias = Callable[[Connection, UUID, int, str], Awaitable[None]]
#: Called after that transaction.
Notify: TypeAlias = Callable[[], None]

# In order of their numbers, so that two writers cannot deadlock.
_LOCK_REPLAYED: Final = """
    SELECT number, queue, event_id, replay_id FROM ops.letters WHERE number = ANY($1::bigint[])
    ORDER BY number FOR NO KEY UPDATE
"""
# It may have been resolved because what followed from it failed further on, if that came first.
_IS_BACK: Final = """
    l.replay_id = r.replay_id AND (l.status = 'replaying' OR (
        l.status = 'resolved' AND l.status_reason = '' AND EXISTS (
            SELECT FROM ops.replay_letters x
            WHERE x.replay_id = r.replay_id AND x.letter = l.number AND x.outcome = 'failed')))
"""
_RETURN: Final = f"""
    UPDATE ops.letters l SET
        status         = CASE WHEN {_IS_BACK} THEN 'open' ELSE l.status END,
        returns        = CASE WHEN {_IS_BACK} THEN 1 ELSE 0 END + l.returns,
        error_code     = r.error_code,
        error_class    = r.error_class,
        error_text     = r.error_text,
        traceback      = r.traceback,
        attempts       = r.attempts,
        last_failed_at = greatest(l.last_failed_at, r.last_failed_at),
        fingerprint    = r.fingerprint
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
                $8::timestamptz[], $9::text[])
        AS r (number, replay_id, error_code, error_class, error_text, traceback, attempts, last_failed_at, fingerprint)
    WHERE l.number = ANY($1::bigint[]) AND l.number = r.number
"""  # noqa: S608 (constants)
# A resolved dead letter that failed again is open again; the same failure delivered twice is not.
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


async def _ignore(_: Connection, __: UUID, ___: int, ____: str) -> None:
    """Do nothing: there are no replays."""


class Archiving(Session):
    """Store dead letters; *failed*, and *notify* after the commit, are called for those that a replay had sent."""

    def __init__(self, pool: Pool, *, failed: Failed = _ignore, notify: Notify = lambda: None) -> None:
        super().__init__(pool)
        self._failed = failed
        self._notify = notify

    async def keep(self, letters: Sequence[DeadLetter]) -> None:
        """Store *letters*, all of them or none; each once, however often it comes."""

        async def work(connection: Connection) -> None:
            replayed = await _lock_replayed(connection, letters)
            returned: list[tuple[ReplayMark, DeadLetter]] = []
            others: list[DeadLetter] = []
            for letter in letters:
                mark = letter.mark
                if mark is not None and _is_returned(letter, replayed.get(mark.letter)):
                    returned.append((mark, letter))
                else:
                    others.append(letter)
            # Of several copies, one that is from the dead letter's present replay counts; of these, the last.
            returned.sort(key=lambda each: each[0].replay_id == replayed[each[0].letter]["replay_id"])
            if rows := {mark.letter: _returned_row(mark, letter) for mark, letter in returned}:
                await connection.execute(_RETURN, *_columns(rows.values()))
            # Of several copies the last one is stored.
            if new := {letter.digest: letter for letter in others}:
                await connection.execute(_KEEP, *_columns(map(_new_row, new.values())))
            # A webhook that follows from a replay is not its outcome.
            following = [(each.mark, each) for each in others if each.mark and each.failure.queue != DELIVERIES_QUEUE]
            for mark, letter in (*returned, *following):
                await self._failed(connection, mark.replay_id, mark.letter, letter.failure.text)

        await self._transaction(work)
        if any(letter.mark for letter in letters):
            self._notify()


async def _lock_replayed(connection: Connection, letters: Sequence[DeadLetter]) -> Mapping[int, Record]:
    """Lock the dead letters whose replays *letters* come from; return them by number."""
    numbers = {letter.mark.letter for letter in letters if letter.mark is not None}
    rows = await connection.fetch(_LOCK_REPLAYED, list(numbers)) if numbers else []
    return {row["number"]: row for row in rows}


def _is_returned(letter: DeadLetter, replayed: Record | None) -> bool:
    """Return whether *letter* is the *replayed* dead letter itself, and not an event that followed from it."""
    return replayed is not None and (replayed["queue"], replayed["event_id"]) == (letter.failure.queue, letter.event_id)


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _returned_row(mark: ReplayMark, letter: DeadLetter) -> tuple[object, ...]:
    failure = letter.failure
    return (
        mark.letter,
        mark.replay_id,
        failure.code,
        failure.kind,
        failure.text,
        failure.traceback,
        failure.attempts,
        failure.last_at,
        letter.fingerprint,
    )


def _new_row(letter: DeadLetter) -> tuple[object, ...]:
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
