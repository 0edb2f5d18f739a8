"""
What is written and read about replays? Edge: their SQL, in schema `ops`.

Who sends, and who cancels, holds the replay's advisory lock until the end of the transaction: so one process sends at a
time, a crash gives the lock back, and a letter is either on its way or canceled. (2026-11: not a lock of the session.
The pool hands sessions on, and one that is thought lost may still hold it.) Outcomes need no lock: each is one change
of one row, from "not known" to "known".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from services.ops.letters.letter import Mark
from services.ops.letters.views import Filter, LetterStatus
from services.ops.letters.where import by_number, where
from services.ops.replays.messages import Letter
from services.ops.replays.plan import (
    Done,
    Outcome,
    Prediction,
    Send,
    SetModel,
    Status,
    Stop,
    before,
    bounds,
    decide,
    in_models,
    is_end,
)
from services.ops.replays.records import (
    IdempotencyKey,
    KeyReused,
    LetterRecord,
    NoReplay,
    NothingSelected,
    NotNow,
    Order,
    ReplayRecord,
    Revert,
    Round,
    Sendable,
    SendAll,
    TooManySelected,
    Unsent,
    Work,
)
from services.ops.replays.rows import (
    from_selected,
    from_settled,
    from_skipped,
    not_open,
    to_counts,
    to_letter,
    to_letter_record,
    to_replay,
    to_rules,
    why_nothing,
)
from shared.contract.events import ModelReverted, ReplaySettled
from shared.contract.text import clean
from shared.runtime.postgres import Conflict, Connection, Pool, Record, acquired, in_transaction

T = TypeVar("T")

#: What one transaction can freeze well within its time.
MOST_LETTERS: Final = 100_000
#: What one statement writes well within its time.
_SLICE: Final = 5000
#: Of one round: enough for any rate, little enough to be cancelled soon and to be held in memory.
_ROUND_LETTERS: Final = 50
_ROUND_BYTES: Final = 8 * 1024 * 1024
#: The letters of this time go together.
_ROUND_SECONDS: Final = 0.2
#: Another process sends: it will not be long.
_BUSY_SECONDS: Final = 0.5
_END: Final = 2**63 - 1
#: What ops does of itself.
ITSELF: Final = "ops"

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ops.replay ' || $1::text, 0))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('ops.replay ' || $1::text, 0))"

_TAKE_KEY: Final = """
    INSERT INTO ops.idempotency_keys (key, request_digest, made) VALUES ($1, $2, $3)
    ON CONFLICT (key) DO NOTHING
    RETURNING key
"""
_GET_KEY: Final = "SELECT request_digest, made FROM ops.idempotency_keys WHERE key = $1"

_AUDIT: Final = "INSERT INTO ops.audit (actor, action, target, reason, outcome) VALUES ($1, $2, $3, $4, $5)"

_LOCK_AUDIT: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ops.audit', 0))"
# State tells it at least once.
_AUDIT_ONCE: Final = """
    INSERT INTO ops.audit (actor, action, target, reason, outcome)
    SELECT $1, $2, $3, $4, $5
    WHERE NOT EXISTS (SELECT FROM ops.audit WHERE target = $3 AND action = $2 AND outcome = $5)
"""

_LETTER: Final = """
    SELECT number, queue, headers, content_type, body, event_type, training_id, error_code, first_failed_at, status
    FROM ops.letters
    WHERE number = $1
"""
_SELECTED: Final = "SELECT number, queue, status, training_id, user_id, fingerprint, replay_id FROM ops.letters "
_BY_NUMBER: Final = _SELECTED + "WHERE number = ANY($1::bigint[]) ORDER BY number FOR NO KEY UPDATE"
_BY_FILTER: Final = _SELECTED + "WHERE {} ORDER BY {} LIMIT {} FOR NO KEY UPDATE"

_INSERT_REPLAY: Final = """
    INSERT INTO ops.replays
        (id, actor, reason, selection, rate_per_second, steps, stop_share, fingerprints, newest_letter, status,
         started_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce((SELECT max(number) FROM ops.letters), 0), $9,
            CASE WHEN $9 = 'running' THEN clock_timestamp() END)
"""
_INSERT_LETTERS: Final = """
    INSERT INTO ops.replay_letters
        (replay_id, position, letter, training_id, user_id, edited_body, outcome, detail, ended_at)
    SELECT $1, position, letter, training_id, user_id, $2, outcome, detail,
           CASE WHEN outcome = 'skipped' THEN clock_timestamp() END
    FROM json_to_recordset($3::json) AS l (
        position integer, letter bigint, training_id text, user_id text, outcome text, detail text)
"""
_TAKE_LETTERS: Final = """
    UPDATE ops.letters SET status = 'replaying', replay_id = $1 WHERE number = ANY($2::bigint[])
"""
_REOPEN_LETTERS: Final = """
    UPDATE ops.letters SET status = 'open' WHERE number = ANY($2::bigint[]) AND status = 'replaying' AND replay_id = $1
"""

_REPLAY: Final = """
    SELECT r.*,
           (SELECT json_object_agg(outcome, count) FROM (
               SELECT outcome, count(*) FROM ops.replay_letters WHERE replay_id = r.id GROUP BY outcome) o) AS outcomes,
           (SELECT min(sent_at) FROM ops.replay_letters
            WHERE replay_id = r.id AND outcome = 'sent') AS sent_since,
           (SELECT json_object_agg(predicted, count) FROM (
               SELECT predicted, count(*) FROM ops.replay_letters
               WHERE replay_id = r.id AND predicted IS NOT NULL GROUP BY predicted) p) AS predictions,
           (SELECT json_object_agg(undo, count) FROM (
               SELECT undo, count(*) FROM ops.replay_letters
               WHERE replay_id = r.id AND undo IS NOT NULL GROUP BY undo) u) AS undone,
           (SELECT count(*) FROM ops.letters l
            WHERE l.fingerprint = ANY(r.fingerprints) AND l.number > r.newest_letter) AS arrived_since
    FROM ops.replays r
"""
_GET_REPLAY: Final = _REPLAY + "WHERE r.id = $1"
_LIST_REPLAYS: Final = _REPLAY + "WHERE r.number < $1 ORDER BY r.number DESC LIMIT $2"
_LIST_LETTERS: Final = """
    SELECT *, edited_body IS NOT NULL AS is_edited FROM ops.replay_letters
    WHERE replay_id = $1 AND position > $2::bigint AND ($4::text IS NULL OR outcome = $4)
    ORDER BY position
    LIMIT $3
"""
_LOCK_REPLAY: Final = "SELECT status, undo_status FROM ops.replays WHERE id = $1 FOR NO KEY UPDATE"

_AT_WORK: Final = """
    SELECT id, status, undo_status = 'undoing' AS is_undoing, rate_per_second, trouble FROM ops.replays
    WHERE status IN ('previewing', 'running') OR undo_status = 'undoing'
    ORDER BY number
"""
_RULES: Final = """
    SELECT steps, stop_share, forgiven_ended, forgiven_failed, rate_per_second,
           extract(epoch FROM next_at - clock_timestamp())::float8 AS early_seconds
    FROM ops.replays WHERE id = $1 AND status = 'running'
"""
_COUNT: Final = "SELECT outcome, count(*) FROM ops.replay_letters WHERE replay_id = $1 GROUP BY outcome"
_NEXT: Final = """
    SELECT l.number, l.queue, l.headers, l.content_type, coalesce(w.edited_body, l.body) AS body, l.event_type,
           l.training_id, l.error_code, l.first_failed_at
    FROM (
        SELECT letter, edited_body, position, sum(size) OVER (ORDER BY position) - size AS bytes_before
        FROM (
            SELECT r.letter, r.edited_body, r.position, octet_length(coalesce(r.edited_body, m.body)) AS size
            FROM ops.replay_letters r JOIN ops.letters m ON m.number = r.letter
            WHERE r.replay_id = $1 AND r.outcome = $3{}
            ORDER BY r.position
            LIMIT $2
        ) sized
    ) w JOIN ops.letters l ON l.number = w.letter
    WHERE w.bytes_before < $4
    ORDER BY w.position
"""
_NEXT_TO_SEND: Final = _NEXT.format("")
# A dry run that was started has its predictions still.
_NEXT_TO_PREVIEW: Final = _NEXT.format(" AND r.predicted IS NULL AND r.letter > $5 AND r.letter <> ALL($6::bigint[])")
_MARK_SENT: Final = """
    UPDATE ops.replay_letters SET outcome = 'sent', sent_at = clock_timestamp()
    WHERE replay_id = $1 AND letter = ANY($2::bigint[]) AND outcome = 'waiting'
"""
_PUT_OFF: Final = """
    UPDATE ops.replays SET next_at = greatest(next_at, clock_timestamp()) + make_interval(secs => $2 / rate_per_second)
    WHERE id = $1
"""
_CHANGE_STATUS: Final = """
    UPDATE ops.replays SET
        status = $2, status_reason = $3, trouble = '',
        started_at = CASE WHEN $2 = 'running' THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
        ended_at = CASE WHEN $2 IN ('done', 'canceled') THEN clock_timestamp() END
    WHERE id = $1
    RETURNING reason
"""
# Somebody may have paused or canceled it meanwhile: then nothing holds it up.
_SET_TROUBLE: Final = """
    UPDATE ops.replays SET trouble = $2
    WHERE id = $1 AND (status IN ('previewing', 'running') OR undo_status = 'undoing')
"""
_LAST_POSITION: Final = "SELECT coalesce(max(position), 0) FROM ops.replay_letters WHERE replay_id = $1"
_CANCEL_WAITING: Final = """
    UPDATE ops.replay_letters SET outcome = 'canceled', detail = $2, ended_at = clock_timestamp()
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome IN ('waiting', 'planned')
    RETURNING letter
"""
_GIVE_UP_SENT: Final = """
    UPDATE ops.replay_letters SET outcome = 'failed', detail = $2, ended_at = clock_timestamp()
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome = 'sent'
    RETURNING letter
"""
_FORGIVE: Final = """
    UPDATE ops.replays SET
        forgiven_ended = c.ended, forgiven_failed = c.failed
    FROM (
        SELECT count(*) FILTER (WHERE ended_at IS NOT NULL AND outcome <> 'skipped') AS ended,
               count(*) FILTER (WHERE outcome = 'failed') AS failed
        FROM ops.replay_letters WHERE replay_id = $1
    ) c
    WHERE id = $1
"""

_PLANNED: Final = """
    SELECT p.letter, p.position, l.status, l.replay_id
    FROM ops.replay_letters p JOIN ops.letters l ON l.number = p.letter
    WHERE p.replay_id = $1 AND p.outcome = 'planned'
    ORDER BY l.number
    FOR NO KEY UPDATE OF l
"""
_START_PLANNED: Final = """
    UPDATE ops.replay_letters SET outcome = 'waiting', stage = NULL, generation = NULL, model = NULL, previous = NULL
    WHERE replay_id = $1 AND letter = ANY($2::bigint[])
"""
_SKIP_PLANNED: Final = """
    UPDATE ops.replay_letters r SET outcome = 'skipped', detail = s.detail, ended_at = clock_timestamp()
    FROM json_to_recordset($2::json) AS s (letter bigint, detail text)
    WHERE r.replay_id = $1 AND r.letter = s.letter
"""

# What was dropped or resolved long ago is forgotten.
_SKIP_FORGOTTEN: Final = """
    UPDATE ops.replay_letters SET outcome = 'skipped', detail = 'it is forgotten', ended_at = clock_timestamp()
    WHERE replay_id = $1 AND outcome = 'planned'
    RETURNING letter
"""

_PREDICT: Final = """
    UPDATE ops.replay_letters r SET
        predicted = p.predicted, predicted_detail = p.detail, user_id = coalesce(p.user_id, r.user_id), stage = p.stage,
        generation = p.generation, model = p.model, previous = p.previous
    FROM json_to_recordset($2::json) AS p (
        letter bigint, predicted text, detail text, user_id text, stage text, generation bigint, model text,
        previous text)
    WHERE r.replay_id = $1 AND r.letter = p.letter AND r.outcome = 'planned'
"""

_ORIGINS: Final = """
    SELECT r.replay_id, r.letter, l.queue, l.event_type
    FROM unnest($1::uuid[], $2::bigint[]) AS m (replay_id, letter)
    JOIN ops.replay_letters r ON r.replay_id = m.replay_id AND r.letter = m.letter
    JOIN ops.letters l ON l.number = r.letter
"""
# State's word stands above a failure: what was sent twice may have failed once.
_SETTLE: Final = """
    UPDATE ops.replay_letters r SET
        outcome = s.outcome, detail = s.detail, user_id = s.user_id, stage = s.stage, generation = s.generation,
        model = s.model, previous = s.previous, ended_at = clock_timestamp(),
        sent_at = coalesce(r.sent_at, clock_timestamp())
    FROM json_to_recordset($1::json) AS s (
        replay_id uuid, letter bigint, outcome text, detail text, user_id text, stage text, generation bigint,
        model text, previous text)
    WHERE r.replay_id = s.replay_id AND r.letter = s.letter AND r.outcome IN ('waiting', 'sent', 'failed', 'canceled')
    RETURNING r.replay_id, r.letter, r.user_id
"""
_RESOLVE: Final = """
    UPDATE ops.letters l SET status = 'resolved', user_id = coalesce(s.user_id, l.user_id)
    FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS s (replay_id, number, user_id)
    WHERE l.number = s.number AND l.replay_id = s.replay_id AND l.status IN ('replaying', 'open')
"""
_FAIL: Final = """
    UPDATE ops.replay_letters SET outcome = 'failed', detail = $3, ended_at = clock_timestamp(),
        sent_at = coalesce(sent_at, clock_timestamp())
    WHERE replay_id = $1 AND letter = $2 AND outcome IN ('waiting', 'sent')
    RETURNING letter
"""
_REOPEN_RETURNED: Final = """
    UPDATE ops.letters SET status = 'open', returns = returns + 1
    WHERE number = $2 AND status = 'replaying' AND replay_id = $1
"""
_RESOLVE_GONE_ON: Final = """
    UPDATE ops.letters SET status = 'resolved'
    WHERE number = $2 AND status = 'replaying' AND replay_id = $1
    RETURNING training_id
"""
_FOLLOWING: Final = """
    SELECT max(number) FROM ops.letters WHERE number > $1 AND training_id = $2 AND headers ->> 'ce-replay' = $3
"""
_DETAIL: Final = "UPDATE ops.replay_letters SET detail = $3 WHERE replay_id = $1 AND letter = $2"

_BEGIN_UNDO: Final = """
    UPDATE ops.replays SET undo_status = 'undoing', undo_actor = $2, undo_reason = $3 WHERE id = $1
"""
_TO_UNDO: Final = """
    UPDATE ops.replay_letters SET undo = 'waiting', undo_detail = $2
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome = 'swapped' AND undo IS NULL
    RETURNING letter
"""
_TO_REVERT: Final = """
    SELECT user_id, generation, model, previous FROM ops.replay_letters
    WHERE replay_id = $1 AND undo = 'waiting' AND user_id = ANY(ARRAY(
        SELECT DISTINCT user_id FROM ops.replay_letters
        WHERE replay_id = $1 AND undo = 'waiting' AND user_id > $3 AND user_id <> ALL($4::text[])
        ORDER BY user_id LIMIT $2
    ))
    ORDER BY user_id, generation DESC
"""
_UNDONE: Final = """
    UPDATE ops.replay_letters SET undo = $3, undo_detail = $4
    WHERE replay_id = $1 AND user_id = $2 AND undo = 'waiting'
"""
_END_UNDO: Final = """
    UPDATE ops.replays SET undo_status = 'undone', trouble = ''
    WHERE id = $1 AND undo_status = 'undoing'
      AND NOT EXISTS (SELECT FROM ops.replay_letters WHERE replay_id = $1 AND undo = 'waiting')
    RETURNING undo_actor, undo_reason
"""
_GET_UNDO: Final = "SELECT undo_actor, undo_reason FROM ops.replays WHERE id = $1"
_COUNT_UNDO: Final = """
    SELECT undo, count(DISTINCT user_id) FROM ops.replay_letters WHERE replay_id = $1 AND undo IS NOT NULL GROUP BY undo
"""


class Store:
    """The tables of replays, and what they do to letters."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._changes: list[asyncio.Event] = []

    def changes(self) -> asyncio.Event:
        """Set whenever this process has committed something about replays; to be cleared by whoever asked for it."""
        event = asyncio.Event()
        self._changes.append(event)
        return event

    def tell(self) -> None:
        """Something was committed about replays."""
        for event in self._changes:
            event.set()

    # Making one

    async def create(self, order: Order, key: IdempotencyKey | None = None) -> tuple[ReplayRecord, bool]:
        """
        Make a replay of what *order* selects, frozen as it is now; with a *key* that was used before, find that one.

        Returns the replay, and whether it is new.

        Raises:
            KeyReused: if *key* came with another request before.
            NothingSelected: if no letter can be replayed.
            TooManySelected: if there are more than one replay takes.

        """

        async def work(connection: Connection) -> tuple[ReplayRecord, bool]:
            if key is not None and (made := await self._take(connection, key, str(order.id))) is not None:
                return await self._get(connection, UUID(made)), False
            await self._create(connection, order)
            return await self._get(connection, order.id), True

        made = await self._transaction(work)
        self.tell()
        return made

    async def _take(self, connection: Connection, key: IdempotencyKey, made: str) -> str | None:
        """What *key* was used for before, or None if it is taken now."""
        if await connection.fetchval(_TAKE_KEY, key.key, key.digest, made):
            return None
        used = await connection.fetchrow(_GET_KEY, key.key)
        if used is None:
            raise Conflict(f"the Idempotency-Key {key.key} was given back just now")
        if used["request_digest"] != key.digest:
            raise KeyReused(f"the Idempotency-Key {key.key} was used for another request")
        return str(used["made"])

    async def _create(self, connection: Connection, order: Order) -> None:
        found = await self._select(connection, order.letters)
        rows = [from_selected(row, is_dry_run=order.is_dry_run) for row in found]
        if isinstance(order.letters, Sequence):
            known = {row["number"] for row in found}
            rows += [from_skipped(number, "there is no such letter") for number in order.letters if number not in known]
        taken = [row["letter"] for row in rows if row["outcome"] != Outcome.SKIPPED]
        if not taken:
            raise NothingSelected(why_nothing(rows))
        # Those that go come first.
        rows.sort(key=lambda row: row["outcome"] == Outcome.SKIPPED)
        numbered = [{**row, "position": position} for position, row in enumerate(rows, start=1)]
        await connection.execute(
            _INSERT_REPLAY,
            order.id,
            order.actor,
            order.reason,
            json.dumps({**order.selection, "steps": list(order.steps)}),
            order.rate_per_second,
            bounds(order.steps, len(taken)),
            order.stop_share,
            sorted({row["fingerprint"] for row in found}),
            Status.PREVIEWING if order.is_dry_run else Status.RUNNING,
        )
        for some in _slices(numbered):
            await connection.execute(_INSERT_LETTERS, order.id, order.edited_body, json.dumps(some))
        if not order.is_dry_run:
            await self._take_letters(connection, order.id, taken)
        action = "replay.planned" if order.is_dry_run else "replay.started"
        edit = ", edited" if order.edited_body is not None else ""
        said = f"{len(taken)} letters{edit}, {len(rows) - len(taken)} skipped"
        await _audit(connection, order.id, actor=order.actor, action=action, reason=order.reason, outcome=said)

    async def _select(self, connection: Connection, letters: Sequence[int] | Filter) -> list[Record]:
        if isinstance(letters, Sequence):
            return await connection.fetch(_BY_NUMBER, letters)
        conditions, values = where(letters.model_copy(update={"status": LetterStatus.OPEN}))
        statement = _BY_FILTER.format(conditions, by_number(letters), f"${len(values) + 1}")
        found = await connection.fetch(statement, *values, MOST_LETTERS + 1)
        if len(found) > MOST_LETTERS:
            raise TooManySelected(f"these are more than {MOST_LETTERS} letters: select fewer, by time for example")
        return found

    async def _take_letters(self, connection: Connection, replay_id: UUID, numbers: Sequence[int]) -> None:
        for some in _slices(numbers):
            await connection.execute(_TAKE_LETTERS, replay_id, some)

    async def find_letter(self, number: int) -> tuple[Letter, str] | None:
        """A letter as it could be sent, and its status."""
        rows = await self._fetch(_LETTER, number)
        return (to_letter(rows[0]), rows[0]["status"]) if rows else None

    # Looking

    async def find(self, replay_id: UUID) -> ReplayRecord | None:
        rows = await self._fetch(_GET_REPLAY, replay_id)
        return to_replay(rows[0]) if rows else None

    async def list_replays(self, *, before: int | None, limit: int) -> list[ReplayRecord]:
        """At most *limit* replays made *before* that number, newest first."""
        return [to_replay(row) for row in await self._fetch(_LIST_REPLAYS, _END if before is None else before, limit)]

    async def list_letters(
        self, replay_id: UUID, *, outcome: Outcome | None, after: int | None, limit: int
    ) -> list[LetterRecord]:
        """At most *limit* letters of a replay after that position, in the order in which they go."""
        return [
            to_letter_record(row) for row in await self._fetch(_LIST_LETTERS, replay_id, after or 0, limit, outcome)
        ]

    # Steering

    async def start(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayRecord:
        """
        Replay what a dry run has looked at, or still does; letters that are not open any more are skipped.

        Raises:
            NoReplay: if there is none.
            NotNow: if it is no dry run, or was started.
            NothingSelected: if none of its letters is open.

        """

        async def work(connection: Connection) -> None:
            await self._require(connection, replay_id, "start", Status.PREVIEWED, Status.PREVIEWING)
            planned = await connection.fetch(_PLANNED, replay_id)
            skipped = [
                {"letter": row["letter"], "detail": not_open(row["status"], row["replay_id"])}
                for row in planned
                if row["status"] != "open"
            ]
            taken = [row["letter"] for row in planned if row["status"] == "open"]
            if not taken:
                raise NothingSelected("none of its letters is open any more")
            await connection.execute(_SKIP_PLANNED, replay_id, json.dumps(skipped))
            for some in _slices(taken):
                await connection.execute(_START_PLANNED, replay_id, some)
            forgotten = await connection.fetch(_SKIP_FORGOTTEN, replay_id)
            await self._take_letters(connection, replay_id, taken)
            await self._change(
                connection,
                replay_id,
                Status.RUNNING,
                actor=actor,
                action="replay.started",
                reason=reason,
                outcome=f"{len(taken)} letters, {len(skipped) + len(forgotten)} skipped",
            )

        return await self._steer(replay_id, work)

    async def pause(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayRecord:
        """Send no more for now. Outcomes of what went come all the same."""

        async def work(connection: Connection) -> None:
            await self._require(connection, replay_id, "pause", Status.RUNNING)
            await self._change(connection, replay_id, Status.PAUSED, actor=actor, action="replay.paused", reason=reason)

        return await self._steer(replay_id, work)

    async def resume(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayRecord:
        """Go on. What has failed so far does not stop it any more."""

        async def work(connection: Connection) -> None:
            await self._require(connection, replay_id, "resume", Status.PAUSED, Status.STOPPED)
            await connection.execute(_FORGIVE, replay_id)
            await self._change(
                connection, replay_id, Status.RUNNING, actor=actor, action="replay.resumed", reason=reason
            )

        return await self._steer(replay_id, work)

    async def cancel(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayRecord:
        """
        Send no more at all: letters that did not go are open again.

        Asked for once more, those that went and of which nothing was heard since are given up, and open again, too.
        """

        async def work(connection: Connection) -> None:
            # Whoever sends finishes first: what went is then known to have gone.
            await connection.execute(_LOCK, str(replay_id))
            was = await self._require(
                connection, replay_id, "cancel", *(each for each in Status if each != Status.DONE)
            )
            if was is Status.CANCELED:
                why = f"given up by {actor}: nothing was heard of it"
                back = await self._change_letters(connection, _GIVE_UP_SENT, replay_id, why)
                if not back:
                    raise NotNow(f"replay {replay_id} is canceled, and nothing of it is underway")
            else:
                back = await self._change_letters(connection, _CANCEL_WAITING, replay_id, f"canceled by {actor}")
            for some in _slices(back):
                await connection.execute(_REOPEN_LETTERS, replay_id, some)
            said = "are given up" if was is Status.CANCELED else "did not go"
            await self._change(
                connection,
                replay_id,
                Status.CANCELED,
                actor=actor,
                action="replay.canceled",
                reason=reason,
                outcome=f"{len(back)} letters {said}",
            )

        return await self._steer(replay_id, work)

    async def undo(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayRecord:
        """
        Begin to take back every swap of a replay that was not taken back before.

        Raises:
            NotNow: if it still sends, or has swapped nothing.

        """

        async def work(connection: Connection) -> None:
            await self._require(
                connection, replay_id, "undo", Status.DONE, Status.CANCELED, Status.STOPPED, Status.PAUSED
            )
            if not await self._change_letters(connection, _TO_UNDO, replay_id, ""):
                raise NotNow(f"replay {replay_id} has swapped no model, or all was taken back before: nothing to undo")
            await connection.execute(_BEGIN_UNDO, replay_id, actor, reason)
            await _audit(connection, replay_id, actor=actor, action="replay.undo_started", reason=reason)

        return await self._steer(replay_id, work)

    async def _steer(self, replay_id: UUID, work: Callable[[Connection], Awaitable[None]]) -> ReplayRecord:
        async def steered(connection: Connection) -> ReplayRecord:
            await work(connection)
            return await self._get(connection, replay_id)

        record = await self._transaction(steered)
        self.tell()
        return record

    async def _require(self, connection: Connection, replay_id: UUID, verb: str, *allowed: Status) -> Status:
        """Its status, if *verb* is possible with that."""
        row = await connection.fetchrow(_LOCK_REPLAY, replay_id)
        if row is None:
            raise NoReplay(f"there is no replay {replay_id}")
        if row["status"] not in allowed:
            raise NotNow(f"replay {replay_id} is {row['status']}: to {verb} it, it must be {' or '.join(allowed)}")
        return Status(row["status"])

    async def _change_letters(self, connection: Connection, statement: str, replay_id: UUID, detail: str) -> list[int]:
        """Change all letters that *statement* finds, some at a time: a statement must not last for long."""
        last = await connection.fetchval(_LAST_POSITION, replay_id)
        changed: list[int] = []
        for begin in range(0, last, _SLICE):
            rows = await connection.fetch(statement, replay_id, detail, begin, begin + _SLICE)
            changed += [row["letter"] for row in rows]
        return changed

    async def _change(
        self,
        connection: Connection,
        replay_id: UUID,
        status: Status,
        *,
        actor: str,
        action: str,
        reason: str,
        outcome: str = "",
    ) -> None:
        why = await connection.fetchval(_CHANGE_STATUS, replay_id, status, reason)
        await _audit(connection, replay_id, actor=actor, action=action, reason=reason or why, outcome=outcome)

    # The engine

    async def at_work(self) -> list[Work]:
        """Replays with something to do."""
        return [
            Work(row["id"], Status(row["status"]), bool(row["is_undoing"]), row["rate_per_second"], row["trouble"])
            for row in await self._fetch(_AT_WORK)
        ]

    async def set_trouble(self, replay_id: UUID, trouble: str) -> None:
        """Remember what holds up a replay, for whoever waits for it; empty: nothing does."""
        await self._execute(_SET_TROUBLE, replay_id, clean(trouble))

    async def send(self, replay_id: UUID, send_all: SendAll) -> Round:
        """Send what may go now, and remember what the broker confirmed; end or stop the replay if it is time to."""
        return await self._transaction(lambda connection: self._send(connection, replay_id, send_all))

    async def _send(self, connection: Connection, replay_id: UUID, send_all: SendAll) -> Round:
        if not await connection.fetchval(_TRY_LOCK, str(replay_id)):
            return Round(seconds=_BUSY_SECONDS, is_elsewhere=True)
        rules = await connection.fetchrow(_RULES, replay_id)
        if rules is None:
            return Round()
        counts = to_counts(await connection.fetch(_COUNT, replay_id))
        match decide(to_rules(rules), counts):
            case Send(count):
                if rules["early_seconds"] > 0:
                    return Round(seconds=rules["early_seconds"])
                together = max(1, int(rules["rate_per_second"] * _ROUND_SECONDS))
                return await self._send_some(connection, replay_id, min(count, together, _ROUND_LETTERS), send_all)
            case Stop(reason):
                await self._change(
                    connection,
                    replay_id,
                    Status.STOPPED,
                    actor=ITSELF,
                    action="replay.stopped",
                    reason=reason,
                    outcome=f"{counts.waiting} letters wait",
                )
            case Done():
                await self._change(
                    connection,
                    replay_id,
                    Status.DONE,
                    actor=ITSELF,
                    action="replay.done",
                    reason="",
                    outcome=f"{counts.ended - counts.failed} done, {counts.failed} failed",
                )
        return Round()

    async def _send_some(self, connection: Connection, replay_id: UUID, count: int, send_all: SendAll) -> Round:
        rows = await connection.fetch(_NEXT_TO_SEND, replay_id, count, Outcome.WAITING, _ROUND_BYTES)
        batch = [Sendable(to_letter(row), Mark(replay_id, row["number"])) for row in rows]
        results = await send_all(batch)
        sent = [each.mark.letter for each, result in zip(batch, results, strict=True) if result is None]
        await connection.execute(_MARK_SENT, replay_id, sent)
        for each, result in zip(batch, results, strict=True):
            if isinstance(result, Unsent):
                await connection.execute(_FAIL, replay_id, each.mark.letter, clean(result.reason))
                await connection.execute(_REOPEN_RETURNED, replay_id, each.mark.letter)
        await connection.execute(_PUT_OFF, replay_id, float(len(batch)))
        failures = [result for result in results if isinstance(result, BaseException)]
        return Round(failures, is_underway=bool(sent), seconds=0.0)

    async def to_preview(
        self, replay_id: UUID, *, limit: int, after: int = 0, without: Sequence[int] = ()
    ) -> list[Sendable]:
        """The next letters of a dry run, beyond the number *after* and *without* those."""
        rows = await self._fetch(_NEXT_TO_PREVIEW, replay_id, limit, Outcome.PLANNED, _ROUND_BYTES, after, without)
        return [Sendable(to_letter(row), Mark(replay_id, row["number"])) for row in rows]

    async def remember_predictions(self, replay_id: UUID, predictions: Mapping[int, Prediction]) -> None:
        rows = [
            {
                "letter": letter,
                "predicted": each.outcome,
                "detail": clean(each.detail),
                "user_id": each.user_id,
                "stage": each.stage,
                "generation": each.generation,
                "model": each.model,
                "previous": each.previous,
            }
            for letter, each in predictions.items()
        ]
        await self._execute(_PREDICT, replay_id, json.dumps(rows))

    async def end_preview(self, replay_id: UUID) -> None:
        """All letters have their prediction."""

        async def work(connection: Connection) -> None:
            row = await connection.fetchrow(_LOCK_REPLAY, replay_id)
            if row is not None and row["status"] == Status.PREVIEWING:
                await connection.execute(_CHANGE_STATUS, replay_id, Status.PREVIEWED, "")

        await self._transaction(work)

    # Outcomes

    async def settle(self, settled: Mapping[Mark, Sequence[ReplaySettled]]) -> None:
        """Remember what state says of letters; what is only a step on the way is left out."""
        await self._transaction(lambda connection: self._settle(connection, settled))
        self.tell()

    async def _settle(self, connection: Connection, settled: Mapping[Mark, Sequence[ReplaySettled]]) -> None:
        marks = list(settled)
        origins = await connection.fetch(_ORIGINS, [mark.replay_id for mark in marks], [mark.letter for mark in marks])
        ends = []
        for origin in origins:
            said = settled[Mark(origin["replay_id"], origin["letter"])]
            last = [event for event in said if is_end(origin["queue"], origin["event_type"], event)][-1:]
            ends += [from_settled(origin["replay_id"], origin["letter"], event) for event in last]
        # In one order everywhere, so that two who do this can not block each other.
        ends.sort(key=lambda end: (end["replay_id"], end["letter"]))
        done = await connection.fetch(_SETTLE, json.dumps(ends))
        await connection.execute(
            _RESOLVE,
            [row["replay_id"] for row in done],
            [row["letter"] for row in done],
            [row["user_id"] for row in done],
        )

    async def note_rollbacks(self, rollbacks: Sequence[ModelReverted]) -> None:
        """Remember who took which user's model back, and why; each once, however often it is told."""

        async def work(connection: Connection) -> None:
            await connection.execute(_LOCK_AUDIT)
            for each in rollbacks:
                came_to = f"generation {each.generation}: {in_models(each.previous)} → {in_models(each.model)}"
                action = "model.rolled_back" if each.model else "model.withdrawn"
                said = (each.actor, action, f"user {each.user_id}", each.reason, came_to)
                await connection.execute(_AUDIT_ONCE, *map(clean, said))

        await self._transaction(work)

    async def failed(self, connection: Connection, replay_id: UUID, letter: int, text: str) -> None:
        """
        Remember, in the transaction of whoever keeps dead letters, that what was sent is among them.

        A letter that came back is open again by then. If one of further on did instead, this one is settled.
        """
        if await connection.fetchval(_FAIL, replay_id, letter, clean(text)) is None:
            return
        gone_on = await connection.fetchrow(_RESOLVE_GONE_ON, replay_id, letter)
        if gone_on is not None:
            new = await connection.fetchval(_FOLLOWING, letter, gone_on["training_id"], str(Mark(replay_id, letter)))
            detail = f"it went on, and failed further on, as letter {new or 'of before'}: {text}"
            await connection.execute(_DETAIL, replay_id, letter, clean(detail))
        self.tell()

    # Undoing

    async def to_revert(
        self, replay_id: UUID, *, limit: int, after: str = "", without: Sequence[str] = ()
    ) -> list[Revert]:
        """The next users whose models are to be taken back, beyond the user *after* and *without* those."""
        (undo,) = await self._fetch(_GET_UNDO, replay_id)
        by_user: dict[str, list[SetModel]] = {}
        for row in await self._fetch(_TO_REVERT, replay_id, limit, after, without):
            by_user.setdefault(row["user_id"], []).append(SetModel(row["generation"], row["model"], row["previous"]))
        return [
            Revert(replay_id, user_id, models[0].generation, before(models), undo["undo_reason"], undo["undo_actor"])
            for user_id, models in by_user.items()
        ]

    async def remember_revert(self, revert: Revert, *, kept_because: str | None) -> None:
        undo = "reverted" if kept_because is None else "kept"
        detail = f"back to {in_models(revert.to)}" if kept_because is None else kept_because
        await self._execute(_UNDONE, revert.replay_id, revert.user_id, undo, clean(detail))

    async def end_undo(self, replay_id: UUID) -> None:
        """Every user was looked at."""

        async def work(connection: Connection) -> None:
            row = await connection.fetchrow(_END_UNDO, replay_id)
            if row is not None:
                counts = {each["undo"]: each["count"] for each in await connection.fetch(_COUNT_UNDO, replay_id)}
                said = f"{counts.get('reverted', 0)} users reverted, {counts.get('kept', 0)} kept"
                actor, reason = row["undo_actor"], row["undo_reason"]
                await _audit(connection, replay_id, actor=actor, action="replay.undone", reason=reason, outcome=said)

        await self._transaction(work)

    # Below

    async def _get(self, connection: Connection, replay_id: UUID) -> ReplayRecord:
        row = await connection.fetchrow(_GET_REPLAY, replay_id)
        if row is None:
            raise Conflict(f"replay {replay_id} is gone")
        return to_replay(row)

    async def _transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await in_transaction(self._pool, work)

    async def _fetch(self, statement: str, *values: Any) -> list[Record]:
        async with acquired(self._pool) as connection:
            return await connection.fetch(statement, *values)

    async def _execute(self, statement: str, *values: Any) -> None:
        async with acquired(self._pool) as connection:
            await connection.execute(statement, *values)


def _slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for begin in range(0, len(rows), _SLICE):
        yield rows[begin : begin + _SLICE]


async def _audit(
    connection: Connection, replay_id: UUID, *, actor: str, action: str, reason: str, outcome: str = ""
) -> None:
    await connection.execute(_AUDIT, actor, action, f"replay {replay_id}", reason, outcome)
