"""
What the engine needs: claim the next dead letters, record what the broker confirmed, end a replay; dry runs. Edge.

No transaction is open while dead letters are published. `claim` gives the next ones to one process for a while: no
other process sends dead letters of the replay until the claim is recorded, or has expired because the process died.
Those of an expired claim are sent again, with the same mark; consumers drop duplicates by the event's id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final
from uuid import UUID

from services.ops.replays.messages import StoredLetter
from services.ops.replays.outcomes import LetterOutcome
from services.ops.replays.plan import Counts, Outcome, Rules, Status
from services.ops.replays.records import Progress, Work
from services.ops.replays.store.session import (
    COUNTS,
    ReplaySession,
    find_status,
    reopen_letters,
    set_status,
    to_stored_letter,
)
from services.ops.session import ITSELF
from shared.contract.text import clean
from shared.runtime.postgres import Connection, acquired

#: Longer than publishing takes. Dead letters that were claimed by a process that died wait as long.
CLAIM_SECONDS: Final = 7.0

_AT_WORK: Final = """
    SELECT id AS replay_id, status, coalesce(undo_status = 'undoing', false) AS is_undoing, rate_per_second, trouble
    FROM ops.replays
    WHERE status IN ('previewing', 'running') OR undo_status = 'undoing'
    ORDER BY number
"""
# It may have been paused or canceled meanwhile: then nothing holds it up.
_SET_TROUBLE: Final = """
    UPDATE ops.replays SET trouble = $2
    WHERE id = $1 AND (status IN ('previewing', 'running') OR undo_status = 'undoing')
"""
_PROGRESS: Final = """
    SELECT steps, stop_share, forgiven_ended, forgiven_failed, rate_per_second, next_at,
           extract(epoch FROM next_at - clock_timestamp())::float8 AS wait_seconds,
           EXISTS (SELECT FROM ops.replay_letters
                   WHERE replay_id = r.id AND claimed_until > clock_timestamp()) AS is_claimed
    FROM ops.replays r WHERE id = $1 AND status = 'running'
"""
_COUNT: Final = "SELECT outcome, count(*) FROM ops.replay_letters WHERE replay_id = $1 GROUP BY outcome"
# Each claim moves next_at: another process that decided at the same time finds it changed, and claims nothing.
_PUT_OFF: Final = """
    UPDATE ops.replays SET next_at = greatest(next_at, clock_timestamp()) + make_interval(secs => $3 / rate_per_second)
    WHERE id = $1 AND status = 'running' AND next_at = $2
    RETURNING id
"""
#: The next dead letters with outcome $3, by position: at most $2 of them, and no more than $4 bytes after the first.
_NEXT_LETTERS: Final = """
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
#: Dead letters of this size are held in memory at a time.
_BATCH_BYTES: Final = 8 * 1024 * 1024
# A dead letter that fails again may be retried for hours, and its step waits: it comes after those that are to succeed.
_NEXT: Final = _NEXT_LETTERS.format(" AND r.predicted IS DISTINCT FROM 'failed'")
_LAST: Final = _NEXT_LETTERS.format("")
_CLAIM: Final = """
    UPDATE ops.replay_letters SET claimed_until = clock_timestamp() + make_interval(secs => $3)
    WHERE replay_id = $1 AND letter = ANY($2::bigint[]) AND outcome = 'waiting'
"""
_MARK_SENT: Final = """
    UPDATE ops.replay_letters SET outcome = 'sent', sent_at = clock_timestamp(), claimed_until = NULL
    WHERE replay_id = $1 AND letter = ANY($2::bigint[]) AND outcome IN ('waiting', 'sent')
"""
#: A dead letter failed again, for the reason $3.
FAIL: Final = """
    UPDATE ops.replay_letters SET outcome = 'failed', detail = $3, ended_at = clock_timestamp(),
        sent_at = coalesce(sent_at, clock_timestamp()), claimed_until = NULL
    WHERE replay_id = $1 AND letter = $2 AND outcome IN ('waiting', 'sent')
    RETURNING letter
"""
_REOPEN_RETURNED: Final = """
    UPDATE ops.letters SET status = 'open', returns = returns + 1
    WHERE number = $2 AND status = 'replaying' AND replay_id = $1
"""
_GIVE_BACK: Final = """
    UPDATE ops.replay_letters SET claimed_until = NULL
    WHERE replay_id = $1 AND letter = ANY($2::bigint[]) AND outcome = 'waiting'
"""
# Canceled while they were being published.
_CANCEL_UNSENT: Final = """
    UPDATE ops.replay_letters SET
        outcome = 'canceled', detail = 'canceled before it was sent', ended_at = clock_timestamp(), claimed_until = NULL
    WHERE replay_id = $1 AND letter = ANY($2::bigint[]) AND outcome = 'sent' AND claimed_until IS NOT NULL
    RETURNING letter
"""
# A dry run that was started keeps its predictions. By position, so that those before are not read again each time.
NEXT_UNPREDICTED: Final = _NEXT_LETTERS.format(
    """ AND r.predicted IS NULL AND r.letter <> ALL($6::bigint[])
              AND r.position > coalesce((SELECT position FROM ops.replay_letters
                                         WHERE replay_id = $1 AND letter = $5::bigint), 0)"""
)
_PREDICT: Final = """
    UPDATE ops.replay_letters r SET
        predicted = p.outcome, predicted_detail = p.detail, user_id = coalesce(p.user_id, r.user_id), stage = p.stage,
        generation = p.generation, model = p.model, previous = p.previous
    FROM json_to_recordset($2::json) AS p (
        letter bigint, outcome text, detail text, user_id text, stage text, generation bigint, model text,
        previous text)
    WHERE r.replay_id = $1 AND r.letter = p.letter AND r.outcome = 'planned'
"""
_END_PREVIEW: Final = "UPDATE ops.replays SET status = 'previewed', trouble = '' WHERE id = $1"
# Not one whose dead letters are being changed: a transaction that changed some of them holds the row, too.
_LOCK_UNCOUNTED: Final = """
    SELECT id FROM ops.replays
    WHERE counts IS NULL AND status NOT IN ('previewing', 'running') AND undo_status IS DISTINCT FROM 'undoing'
    ORDER BY number DESC LIMIT 1
    FOR UPDATE SKIP LOCKED
"""
_KEEP_COUNTS: Final = f"UPDATE ops.replays r SET counts = {COUNTS} WHERE id = $1"  # noqa: S608 (our own columns)


class Sending(ReplaySession):
    """What the engine needs to send dead letters, to predict them, and to keep counts."""

    async def at_work(self) -> list[Work]:
        return [Work(**{**row, "status": Status(row["status"])}) for row in await self._fetch(_AT_WORK)]

    async def set_trouble(self, replay_id: UUID, trouble: str) -> None:
        """Store what holds up a replay; empty: nothing does."""
        await self._execute(_SET_TROUBLE, replay_id, clean(trouble))

    async def progress(self, replay_id: UUID) -> Progress | None:
        """Return what `decide` needs; None if the replay is not running."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_PROGRESS, replay_id)
            counts = await connection.fetch(_COUNT, replay_id)
        if row is None:
            return None
        return Progress(
            rules=Rules(row["steps"], row["stop_share"], row["forgiven_ended"], row["forgiven_failed"]),
            counts=Counts.of({Outcome(each["outcome"]): each["count"] for each in counts}),
            is_claimed=row["is_claimed"],
            rate_per_second=row["rate_per_second"],
            next_at=row["next_at"],
            wait_seconds=row["wait_seconds"],
        )

    async def claim(
        self, replay_id: UUID, *, limit: int, next_at: datetime, seconds: float = CLAIM_SECONDS
    ) -> list[StoredLetter]:
        """
        Claim at most *limit* dead letters, by position, but those last that a dry run predicted to fail.

        Empty if the replay changed since its `Progress` had this *next_at*.
        """

        async def work(connection: Connection) -> list[StoredLetter]:
            of_these = (replay_id, limit, Outcome.WAITING, _BATCH_BYTES)
            rows = await connection.fetch(_NEXT, *of_these) or await connection.fetch(_LAST, *of_these)
            if not await connection.fetchval(_PUT_OFF, replay_id, next_at, float(len(rows))):
                return []
            batch = [to_stored_letter(row) for row in rows]
            await connection.execute(_CLAIM, replay_id, [each.number for each in batch], seconds)
            return batch

        return await self._transaction(work)

    async def record(
        self, replay_id: UUID, *, sent: Sequence[int], unsent: Mapping[int, str], given_back: Sequence[int]
    ) -> None:
        """Record a claim's dead letters: confirmed, impossible to send and why, or to be tried again."""

        async def work(connection: Connection) -> None:
            await connection.execute(_MARK_SENT, replay_id, sent)
            for letter, reason in unsent.items():
                await connection.execute(FAIL, replay_id, letter, clean(reason))
                await connection.execute(_REOPEN_RETURNED, replay_id, letter)
            if given_back:
                await connection.execute(_GIVE_BACK, replay_id, given_back)
                canceled = await connection.fetch(_CANCEL_UNSENT, replay_id, given_back)
                await reopen_letters(connection, replay_id, [row["letter"] for row in canceled])

        await self._transaction(work)

    async def end(self, replay_id: UUID, status: Status, *, reason: str, outcome: str) -> None:
        """Set a running replay to stopped or done."""

        async def work(connection: Connection) -> None:
            if await find_status(connection, replay_id) is Status.RUNNING:
                action = f"replay.{status}"
                await set_status(connection, replay_id, status, ITSELF, action, reason=reason, outcome=outcome)

        await self._transaction(work)

    # Dry runs

    async def to_preview(
        self, replay_id: UUID, *, limit: int, after: int = 0, without: Sequence[int]
    ) -> list[StoredLetter]:
        """Return the next dead letters of a dry run behind the dead letter *after*, except those in *without*."""
        rows = await self._fetch(NEXT_UNPREDICTED, replay_id, limit, Outcome.PLANNED, _BATCH_BYTES, after, without)
        return [to_stored_letter(row) for row in rows]

    async def remember_predictions(self, replay_id: UUID, predictions: Mapping[int, LetterOutcome]) -> None:
        """Store predictions, by the dead letters' numbers."""
        rows = [
            {**asdict(each), "letter": letter, "detail": clean(each.detail)} for letter, each in predictions.items()
        ]
        await self._execute(_PREDICT, replay_id, json.dumps(rows))

    async def end_preview(self, replay_id: UUID) -> None:
        """Set a dry run to previewed: every dead letter has its prediction."""

        async def work(connection: Connection) -> None:
            if await find_status(connection, replay_id) is Status.PREVIEWING:
                await connection.execute(_END_PREVIEW, replay_id)

        await self._transaction(work)

    # Counts, which the database forgets once a dead letter of the replay changes

    async def keep_counts(self) -> bool:
        """Count the newest replay at rest whose counts are not kept; False if there is none."""

        async def work(connection: Connection) -> bool:
            replay_id = await connection.fetchval(_LOCK_UNCOUNTED)
            if replay_id is not None:
                # A statement of its own, which sees what was committed before the lock was had.
                await connection.execute(_KEEP_COUNTS, replay_id)
            return replay_id is not None

        return await self._transaction(work)
