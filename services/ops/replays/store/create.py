"""Create a replay: freeze which dead letters it has. Edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from services.ops.letters.views import Filter, LetterStatus
from services.ops.letters.where import where
from services.ops.replays.plan import Outcome, Status, step_ends, why_not_open, why_not_replayable
from services.ops.replays.records import NewReplay, NothingSelected, TooManySelected
from services.ops.replays.store.session import ReplaySession, audit_replay, get_replay, take_letters
from services.ops.replays.views import ReplayView
from services.ops.session import TAKE_KEY, slices
from services.ops.where import by_number
from shared.contract.idempotency import IdempotencyKey
from shared.runtime.postgres import Connection, Record
from shared.runtime.postgres_errors import Conflict

#: What one transaction can freeze well within its time.
MOST_LETTERS: Final = 100_000
#: How many reasons an error names.
_REASONS: Final = 5

_GET_KEY: Final = "SELECT request_digest, made FROM ops.idempotency_keys WHERE key = $1"

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


class _Row(NamedTuple):
    """A row of `_INSERT_LETTERS`, without its position."""

    letter: int
    outcome: Outcome
    detail: str = ""
    training_id: str | None = None
    user_id: str | None = None


class Creation(ReplaySession):
    """Create replays."""

    async def create(self, new: NewReplay, key: IdempotencyKey | None = None) -> ReplayView:
        """
        Create a replay of the dead letters that *new* selects now; with a *key* that was used before, find that one.

        Raises:
            KeyReused: if *key* came with another request before.
            NothingSelected: if no dead letter can be replayed.
            TooManySelected: if there are more than one replay takes.

        """

        async def work(connection: Connection) -> ReplayView:
            existing = None if key is None else await _take_key(connection, key, new.id)
            if existing is None:
                await _create(connection, new)
            return await get_replay(connection, existing or new.id)

        return await self._change(work)


async def _take_key(connection: Connection, key: IdempotencyKey, replay_id: UUID) -> UUID | None:
    """Return the replay that *key* was used for before, or None if it is taken for this one now."""
    if await connection.fetchval(TAKE_KEY, key.key, key.digest, str(replay_id)):
        return None
    used = await connection.fetchrow(_GET_KEY, key.key)
    if used is None:
        raise Conflict(f"the Idempotency-Key {key.key} was given back just now")
    key.check(used["request_digest"])
    return UUID(used["made"])


async def _create(connection: Connection, new: NewReplay) -> None:
    wanted, selected = new.wanted, new.wanted.selected()
    found = await _select(connection, selected)
    rows = [_row(letter, Outcome.PLANNED if wanted.dry_run else Outcome.WAITING) for letter in found]
    if isinstance(selected, Sequence):
        known = {letter["number"] for letter in found}
        rows += [_skipped(number, "there is no such dead letter") for number in selected if number not in known]
    taken = [row.letter for row in rows if row.outcome != Outcome.SKIPPED]
    if not taken:
        raise NothingSelected(_why_nothing(rows))
    # Skipped ones come last, so that the positions of the others are without gaps.
    rows.sort(key=lambda row: row.outcome == Outcome.SKIPPED)
    numbered = [{**row._asdict(), "position": position} for position, row in enumerate(rows, start=1)]
    await connection.execute(
        _INSERT_REPLAY,
        new.id,
        new.actor,
        wanted.reason,
        json.dumps({**wanted.selection(), "steps": list(wanted.steps)}),
        wanted.rate_per_second,
        step_ends(wanted.steps, len(taken)),
        wanted.stop_when_failed_share,
        sorted({letter["fingerprint"] for letter in found}),
        Status.PREVIEWING if wanted.dry_run else Status.RUNNING,
    )
    for some in slices(numbered):
        await connection.execute(_INSERT_LETTERS, new.id, new.edited_body, json.dumps(some))
    if not wanted.dry_run:
        await take_letters(connection, new.id, taken)
    action = "replay.planned" if wanted.dry_run else "replay.started"
    edit = ", edited" if new.edited_body is not None else ""
    outcome = f"{len(taken)} dead letters{edit}, {len(rows) - len(taken)} skipped"
    await audit_replay(connection, new.id, new.actor, action, reason=wanted.reason, outcome=outcome)


async def _select(connection: Connection, letters: Sequence[int] | Filter) -> list[Record]:
    if isinstance(letters, Sequence):
        return await connection.fetch(_BY_NUMBER, letters)
    conditions, values = where(letters.model_copy(update={"status": LetterStatus.OPEN}))
    statement = _BY_FILTER.format(conditions, by_number(letters.text), f"${len(values) + 1}")
    found = await connection.fetch(statement, *values, MOST_LETTERS + 1)
    if len(found) > MOST_LETTERS:
        raise TooManySelected(f"more than {MOST_LETTERS} dead letters are selected: select fewer, by time for example")
    return found


def _row(letter: Record, outcome: Outcome) -> _Row:
    """Return the row of *letter* with *outcome*, or skipped and why."""
    why = why_not_replayable(letter["queue"]) or why_not_open(letter["status"], letter["replay_id"])
    known = {"training_id": letter["training_id"], "user_id": letter["user_id"]}
    if why is not None:
        return _skipped(letter["number"], why)._replace(**known)
    return _Row(letter["number"], outcome, **known)


def _skipped(number: int, why: str) -> _Row:
    return _Row(number, Outcome.SKIPPED, why)


def _why_nothing(rows: Sequence[_Row]) -> str:
    if not rows:
        return "no open dead letter is selected: there is nothing to replay"
    few = "; ".join(f"dead letter {row.letter}: {row.detail}" for row in rows[:_REASONS])
    return f"none of these dead letters can be replayed: {few}{'; …' if len(rows) > _REASONS else ''}"
