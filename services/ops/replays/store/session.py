"""What all use cases of replays share: the row of a replay, and notification of changes. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from uuid import UUID

from services.ops.replays.messages import StoredLetter
from services.ops.replays.plan import Status
from services.ops.replays.records import NoReplay, NotNow
from services.ops.replays.views import MOST_ARRIVED, ReplayView
from services.ops.session import SLICE, Session, audit, slices
from shared.runtime.postgres import Connection, Pool, Record

T = TypeVar("T")

#: What is counted of a replay ``r``; it reads all of its dead letters, once.
COUNTS: Final = """(
    WITH counted AS (
        SELECT outcome, predicted, count(*) AS letters, min(sent_at) FILTER (WHERE outcome = 'sent') AS sent_since
        FROM ops.replay_letters WHERE replay_id = r.id GROUP BY outcome, predicted
    )
    SELECT jsonb_build_object(
        'sent_since', (SELECT min(sent_since) FROM counted),
        'sent_queue', (SELECT queue FROM ops.letters WHERE number = (
            SELECT letter FROM ops.replay_letters WHERE replay_id = r.id AND outcome = 'sent'
            ORDER BY sent_at LIMIT 1)),
        'outcomes', (SELECT coalesce(jsonb_object_agg(outcome, letters), '{}') FROM (
            SELECT outcome, sum(letters) AS letters FROM counted GROUP BY outcome) o),
        'predictions', (SELECT coalesce(jsonb_object_agg(predicted, letters), '{}') FROM (
            SELECT predicted, sum(letters) AS letters FROM counted WHERE predicted IS NOT NULL GROUP BY predicted) p),
        'undo', CASE WHEN r.undo_status IS NOT NULL THEN (
            SELECT jsonb_build_object(
                'reverted', count(DISTINCT user_id) FILTER (WHERE undo = 'reverted'),
                'kept', count(DISTINCT user_id) FILTER (WHERE undo = 'kept'),
                'waiting', count(DISTINCT user_id) FILTER (WHERE undo = 'waiting'))
            FROM ops.replay_letters WHERE replay_id = r.id AND undo IS NOT NULL) END)
)"""
_ARRIVED: Final = f"""
    SELECT count(*) FROM (
        SELECT FROM ops.letters l
        WHERE l.fingerprint = ANY(r.fingerprints) AND l.number > r.newest_letter LIMIT {MOST_ARRIVED}) a
"""  # noqa: S608 (our own number)


def select_replays(which: str) -> str:
    """Return the statement that selects rows of `ReplayView` as JSON, for the condition *which* of replays ``r``."""
    # Counts that are not kept are counted now; OFFSET 0: once, not for each use of them.
    return f"""
        SELECT to_json(v) FROM (
            SELECT r.id, r.number, r.status, r.status_reason, r.trouble, r.reason, r.actor, r.selection,
                   r.rate_per_second, r.steps, r.stop_share AS stop_when_failed_share, r.created_at, r.started_at,
                   r.ended_at, (c.counts ->> 'sent_since')::timestamptz AS sent_since,
                   coalesce(c.counts ->> 'sent_queue', '') AS sent_queue,
                   c.counts -> 'outcomes' AS outcomes, c.counts -> 'predictions' AS predictions,
                   ({_ARRIVED}) AS arrived_since,
                   CASE WHEN r.undo_status IS NOT NULL THEN
                       c.counts -> 'undo' || jsonb_build_object(
                           'status', r.undo_status, 'actor', r.undo_actor, 'reason', r.undo_reason)
                   END AS undo
            FROM ops.replays r, LATERAL (SELECT coalesce(r.counts, {COUNTS}) AS counts OFFSET 0) c
            WHERE {which}
        ) v
    """  # noqa: S608 (our own columns)


GET_REPLAY: Final = select_replays("r.id = $1")
_LOCK_REPLAY: Final = "SELECT status FROM ops.replays WHERE id = $1 FOR NO KEY UPDATE"
_SET_STATUS: Final = """
    UPDATE ops.replays SET
        status = $2, status_reason = $3, trouble = '',
        started_at = CASE WHEN $2 = 'running' THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
        ended_at = CASE WHEN $2 IN ('done', 'canceled') THEN clock_timestamp() END
    WHERE id = $1
    RETURNING reason
"""
_LAST_POSITION: Final = "SELECT coalesce(max(position), 0) FROM ops.replay_letters WHERE replay_id = $1"
_TAKE_LETTERS: Final = """
    UPDATE ops.letters SET status = 'replaying', replay_id = $1 WHERE number = ANY($2::bigint[])
"""
_REOPEN_LETTERS: Final = """
    UPDATE ops.letters SET status = 'open' WHERE number = ANY($2::bigint[]) AND status = 'replaying' AND replay_id = $1
"""


class ReplaySession(Session):
    """Base of the use cases of replays."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._changes: list[asyncio.Event] = []

    def changes(self) -> asyncio.Event:
        """Return an event that is set after each commit of this process that changed a replay. The caller clears it."""
        event = asyncio.Event()
        self._changes.append(event)
        return event

    def notify(self) -> None:
        """Set every event of `changes`."""
        for event in self._changes:
            event.set()

    async def _change(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        done = await self._transaction(work)
        self.notify()
        return done


async def get_replay(connection: Connection, replay_id: UUID) -> ReplayView:
    return ReplayView.model_validate_json(await connection.fetchval(GET_REPLAY, replay_id))


async def lock_replay(connection: Connection, replay_id: UUID, verb: str, *allowed: Status) -> Status:
    """
    Lock a replay and return its status.

    Raises:
        NoReplay: if it does not exist.
        NotNow: if its status is not *allowed* for *verb*.

    """
    status = await find_status(connection, replay_id)
    if status is None:
        raise NoReplay(replay_id)
    if status not in allowed:
        raise NotNow(f"replay {replay_id} is {status}: to {verb} it, it must be {' or '.join(allowed)}")
    return status


async def find_status(connection: Connection, replay_id: UUID) -> Status | None:
    """Lock a replay and return its status; None if it does not exist."""
    found = await connection.fetchval(_LOCK_REPLAY, replay_id)
    return None if found is None else Status(found)


async def set_status(
    connection: Connection, replay_id: UUID, status: Status, actor: str, action: str, *, reason: str, outcome: str = ""
) -> None:
    """Set the status and audit it; without a *reason*, with the replay's own."""
    own_reason = await connection.fetchval(_SET_STATUS, replay_id, status, reason)
    await audit_replay(connection, replay_id, actor, action, reason=reason or own_reason, outcome=outcome)


async def audit_replay(
    connection: Connection, replay_id: UUID, actor: str, action: str, *, reason: str, outcome: str = ""
) -> None:
    await audit(connection, actor, action, f"replay {replay_id}", reason=reason, outcome=outcome)


async def change_letters(connection: Connection, statement: str, replay_id: UUID, detail: str) -> list[int]:
    """Run *statement* on one slice of positions after the other; return the numbers of the changed dead letters."""
    last = await connection.fetchval(_LAST_POSITION, replay_id)
    changed: list[int] = []
    for begin in range(0, last, SLICE):
        rows = await connection.fetch(statement, replay_id, detail, begin, begin + SLICE)
        changed += [row["letter"] for row in rows]
    return changed


async def take_letters(connection: Connection, replay_id: UUID, numbers: list[int]) -> None:
    """Mark dead letters as being replayed."""
    await _on_letters(connection, _TAKE_LETTERS, replay_id, numbers)


async def reopen_letters(connection: Connection, replay_id: UUID, numbers: list[int]) -> None:
    """Mark dead letters that this replay has as open."""
    await _on_letters(connection, _REOPEN_LETTERS, replay_id, numbers)


async def _on_letters(connection: Connection, statement: str, replay_id: UUID, numbers: list[int]) -> None:
    for some in slices(numbers):
        await connection.execute(statement, replay_id, some)


def to_stored_letter(row: Record) -> StoredLetter:
    values: dict[str, Any] = dict(row)
    return StoredLetter(**{**values, "headers": json.loads(values["headers"])})
