"""
Writes `Changes`: one statement for all rows of a batch. Edge.

Optimistic locking: every writer of a user's trainings or models first updates the user's row. The update locks the row
until the commit, and gives it a new version: its `xmin`, the id of the transaction that wrote it. Changes that were
decided without a lock are written only for users whose row still has the version that was read. The one exception is
`record_progress`: it skips locked rows, and moves a training from requested to running. Every fact but STARTED treats
these two stages alike, so a decision that saw the first writes the same row; of started_at, the first time is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import structlog
from pydantic_core import to_json

from services.state.changes import Applied, Changes, Swap
from services.state.store.outbox import INSERT_OUTBOX, outbox_rows
from shared.contract.events import ModelActivated, ModelSuperseded, ModelWithdrawn
from shared.contract.identity import ModelRef
from shared.contract.values import Cause
from shared.runtime import telemetry
from shared.runtime.logs import log_fact
from shared.runtime.postgres import Connection

log = structlog.get_logger()

#: The durations that the estimate of a training (row t) uses from its start on: those of its trainer at that time.
EXPECTED_SECONDS: Final = """coalesce(
                t.expected_seconds,
                (SELECT ARRAY[d.low_seconds, d.median_seconds, d.high_seconds]
                 FROM state.trainer_durations d WHERE d.trainer = split_part(t.trainer, ':', 1)))"""
#: The time until which the estimate of a training (row t) grows. Until the commit it is still read as growing, and it
#: must not fall then: so this is a second later than now.
ESTIMATED_UNTIL: Final = "coalesce(t.estimated_until, clock_timestamp() + interval '1 second')"

# As long as Replicate's id is unknown, an end is our guess that the training was not started. The id disproves it.
_COMPLETED_AT: Final = "coalesce(CASE WHEN c.training_id IS NULL THEN t.completed_at END, c.completed_at)"
#: IS TRUE keeps this from becoming a join: the ids are hashed once, before a row is tested, and rows keep their order.
_OF_LOCKED: Final = "(user_id IN (SELECT user_id FROM locked)) IS TRUE"

# Constraints across these tables are checked at the end of the statement or at commit.
WRITE: Final = f"""
    WITH locked AS (
        UPDATE state.users u SET next_generation = u.next_generation
        FROM unnest($1::text[], $2::xid[]) AS known (user_id, version)
        WHERE u.user_id = known.user_id AND u.user_id = ANY($1::text[])
          AND (u.xmin = known.version OR known.version IS NULL)
        RETURNING u.user_id
    ), inbox AS (
        INSERT INTO state.inbox (event_id, ref, event, occurred_at, stage, detail)
        SELECT event_id, ref, event, occurred_at, stage, detail::json
        FROM unnest($3::text[], $4::text[], $5::uuid[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])
            AS i (event_id, user_id, ref, event, occurred_at, stage, detail)
        WHERE {_OF_LOCKED}
        ON CONFLICT DO NOTHING
    ), trainings AS (
        UPDATE state.trainings t SET
            training_id     = coalesce(t.training_id, c.training_id),
            stage           = coalesce(c.stage, t.stage),
            model           = coalesce(t.model, c.model),
            failure_code    = CASE WHEN c.stage IS NULL THEN t.failure_code ELSE c.failure ->> 0 END,
            failure_reason  = CASE WHEN c.stage IS NULL THEN t.failure_reason ELSE c.failure ->> 1 END,
            output          = coalesce(t.output, c.output),
            trainer         = coalesce(t.trainer, c.trainer),
            trainer_version = coalesce(t.trainer_version, c.trainer_version),
            started_at      = coalesce(t.started_at, c.started_at),
            completed_at    = {_COMPLETED_AT},
            reported_at     = coalesce(t.reported_at, c.reported_at),
            webhook_missed  = CASE WHEN t.reported_at IS NULL AND t.requested_at < {_COMPLETED_AT}
                                   THEN c.webhook_missed ELSE t.webhook_missed END,
            expected_seconds = CASE c.stage WHEN 'running' THEN {EXPECTED_SECONDS} ELSE t.expected_seconds END,
            estimated_until = CASE WHEN t.stage = 'running' AND c.stage IN ('failed', 'canceled') THEN {ESTIMATED_UNTIL}
                                   ELSE t.estimated_until END,
            updated_at      = clock_timestamp()
        FROM json_to_recordset($10::json) AS c (
            ref uuid, training_id text, stage text, model text, failure json, output text, trainer text,
            trainer_version text, started_at timestamptz, completed_at timestamptz, reported_at timestamptz,
            webhook_missed boolean)
        WHERE t.ref = c.ref AND t.ref = ANY($11::uuid[]) AND {_OF_LOCKED}
    ), history AS (
        INSERT INTO state.model_history
            (user_id, generation, ref, model, trigger_word, cause, previous_model, actor, reason, reported_at, at)
        SELECT user_id, generation, ref, model, trigger_word, cause, previous, actor, reason, reported_at,
               statement_timestamp()
        FROM json_to_recordset($12::json) AS s (
            user_id text, generation bigint, ref uuid, model text, trigger_word text, previous text, cause text,
            actor text, reason text, reported_at timestamptz)
        WHERE {_OF_LOCKED}
    ), models AS (
        INSERT INTO state.user_models AS m (user_id, generation, ref, model, trigger_word, activated_at)
        SELECT user_id, generation, ref, model, trigger_word, statement_timestamp()
        FROM json_to_recordset($13::json) AS s (
            user_id text, generation bigint, ref uuid, model text, trigger_word text)
        WHERE {_OF_LOCKED}
        -- A trigger refuses a generation that does not rise.
        ON CONFLICT (user_id) DO UPDATE SET
            generation   = excluded.generation,
            ref          = excluded.ref,
            model        = excluded.model,
            trigger_word = excluded.trigger_word,
            activated_at = excluded.activated_at
    ), outbox AS (
        {INSERT_OUTBOX.format("$14").strip()}
        WHERE {_OF_LOCKED}
    )
    SELECT user_id FROM locked
"""  # noqa: S608 (constants)
# The database requires the withdrawal's row in the history.
_DELETE_MODEL: Final = "DELETE FROM state.user_models WHERE user_id = $1 AND generation < $2"


async def write(connection: Connection, changes: Changes, versions: Mapping[str, int | None]) -> Collection[str]:
    """
    Write *changes* of those users whose row has the version in *versions*, or any if that is None; return these users.

    Outside of a transaction, this is one.
    """
    users = sorted(versions)  # all lock in the same order
    rows = await connection.fetch(
        WRITE,
        users,
        [versions[user] for user in users],
        list(changes.applied),
        *([row[column] for row in changes.applied.values()] for column in range(len(Applied._fields))),
        _rows(changes.trainings),
        [change.ref for change in changes.trainings],
        _rows(changes.lines),
        _rows(changes.current),
        outbox_rows(changes.outbox),
    )
    return {row["user_id"] for row in rows}


async def write_locked(connection: Connection, changes: Changes, user_id: str) -> None:
    """Write *changes* of one user, who is locked."""
    await write(connection, changes, {user_id: None})
    for withdrawal in changes.withdrawals:
        await connection.execute(_DELETE_MODEL, withdrawal.user_id, withdrawal.generation)


def report_committed(changes: Changes, now: datetime) -> None:
    """Count the swaps of *changes*, which were committed *now*, and log what happened to models."""
    telemetry.swaps.inc(len(changes.swaps))
    lines = {(line.user_id, line.generation): line for line in changes.lines}
    for each in changes.outbox:
        facts: dict[str, object] = {"generation": each.generation}
        match each.envelope.event:
            case ModelActivated(cause=cause, model=model, previous=previous):
                name = "model.rolled_back" if cause is Cause.ROLLBACK else "model.swapped"
                facts |= {"model": str(model), "cause": cause, "previous": None if previous is None else str(previous)}
            case ModelWithdrawn(previous=previous):
                name = "model.withdrawn"
                facts |= {"previous": str(previous)}
            case ModelSuperseded(model=model, current_generation=current_generation):
                name = "model.superseded"
                facts |= {"model": str(model), "current_generation": current_generation}
            case _:
                continue
        if (line := lines.get((each.user_id, each.generation))) is not None:
            facts |= {"actor": line.actor, "reason": line.reason}
            if isinstance(line, Swap) and line.cause is Cause.TRAINING and line.reported_at is not None:
                # Another machine's clock took the first of these times.
                seconds = max(0.0, (now - line.reported_at).total_seconds())
                telemetry.swap_seconds.observe(seconds, telemetry.exemplar(each.envelope.trace))
        log_fact(log, name, each.envelope, **facts)


def _rows(items: Iterable[Any]) -> str:
    """Return dataclasses as the JSON of `json_to_recordset`, which reads a missing field as null."""
    rows = [
        {
            # A model ref is a tuple, which would become an array.
            name: str(value) if isinstance(value, ModelRef) else value
            for name in item.__dataclass_fields__
            if (value := getattr(item, name)) is not None
        }
        for item in items
    ]
    return to_json(rows).decode()
