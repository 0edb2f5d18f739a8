"""
What is written and read? Edge: every SQL statement of this service, in schema `state`.

A batch of deliveries is one transaction of five round trips, whatever its size:

    BEGIN
    lock     the users of the trainings that the batch is about, in order of their ids: the only lock, always first,
             so writers can not deadlock, and nothing below is decided on a row that changes meanwhile
    load     those trainings, their users' current models, and which of the events were applied before
    write    what `swap.fold` made of them, in one statement
    COMMIT

Rows are named by ``= ANY(array)``, even where a join says it already: so each is found by its index, and a plan that
was made while the tables were empty stays good when they are large.

READ COMMITTED is enough because of that lock. Whoever else moves a training takes it, too; only progress does not: it
skips what is locked, waits for nobody, and touches nothing that decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID, uuid4

import structlog

from services.state.asking import NoTraining, RollbackOrder, Target, WithdrawalOrder, look_again, roll_back, withdraw
from services.state.estimate import LEARN_FROM, Report
from services.state.previous import model_before
from services.state.records import (
    NOT_STARTED,
    HistoryRecord,
    IdempotencyKey,
    KeyReused,
    ModelRecord,
    OutputRecord,
    Publish,
    RegisteredOtherwise,
    Registration,
    Round,
    TrainingRecord,
    UserDeleted,
)
from services.state.rows import (
    from_outgoing,
    from_report,
    from_swap,
    from_training_change,
    from_withdrawal,
    planned_model,
    planned_withdrawal,
    to_current,
    to_envelopes,
    to_history,
    to_json,
    to_line,
    to_made,
    to_model,
    to_model_name,
    to_output,
    to_record,
    to_rivals,
    to_target,
    to_training,
)
from services.state.swap import (
    SOURCE,
    Changes,
    CurrentModel,
    Failure,
    Outgoing,
    Result,
    Snapshot,
    claimed_ref,
    fold,
    inbox_id,
    lacks_destination,
    looked_up_model,
    rivals_of,
)
from services.state.transitions import Stage
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import Cause, ModelActivated, ModelSuperseded, ModelWithdrawn, ProgressSource, TrainingEvent
from shared.contract.identity import ModelRef
from shared.contract.limits import Unpublishable
from shared.runtime import telemetry
from shared.runtime.clock import now
from shared.runtime.logs import log_fact
from shared.runtime.postgres import Conflict, Connection, Pool, Record, acquired, in_transaction

log = structlog.get_logger()

T = TypeVar("T")

#: The role whose few rights the service acts with.
ROLE: Final = "modelswap_state"

_KEEP_PUBLISHED: Final = timedelta(days=7)
_KEEP_INBOX: Final = timedelta(days=30)
_KEEP_KEYS: Final = timedelta(days=1)

#: How many of a trainer's last trainings are learned from. One that took longer than a day is a wrong date.
_LEARN_LAST: Final = 100
_LONGEST_TRAINING: Final = timedelta(days=1)

_LOCK_USERS: Final = """
    SELECT user_id, deleted_at IS NOT NULL AS is_deleted
    FROM state.users
    WHERE user_id = ANY(ARRAY(
        SELECT user_id FROM state.trainings WHERE training_id = ANY($1::text[])
        UNION ALL
        SELECT user_id FROM state.trainings WHERE ref = ANY($2::uuid[])
    ))
    ORDER BY user_id
    FOR NO KEY UPDATE
"""

# A training that was registered after the lock was taken is left out: its user is not locked.
_LOAD: Final = """
    SELECT t.ref, t.training_id, t.user_id, t.generation, t.destination::text, t.trigger_word, t.stage,
           t.trainer_version, t.started_at, CASE WHEN t.training_id = ANY($5::text[]) THEN t.output END AS output,
           m.generation AS current_generation, m.ref AS current_ref, m.model::text AS current_model,
           CASE WHEN m.generation IS NULL THEN
               (SELECT h.generation FROM state.model_history h
                WHERE h.user_id = t.user_id ORDER BY h.generation DESC LIMIT 1) END AS withdrawn_generation,
           ARRAY(SELECT event_id FROM state.inbox WHERE event_id = ANY($4::text[])) AS applied,
           ARRAY(SELECT model || ' ' || ref FROM state.trainings WHERE model = ANY($6::text[])) AS made,
           ARRAY(SELECT name FROM unnest($7::text[]) AS name
                 WHERE (SELECT min(user_id) FROM state.trainings WHERE destination = name)
                    <> (SELECT max(user_id) FROM state.trainings WHERE destination = name)) AS shared,
           (SELECT json_agg(json_build_object('ref', ref, 'destination', destination, 'started_at', started_at,
                                              'completed_at', completed_at))
            FROM state.trainings
            WHERE destination = ANY($7::text[]) AND user_id = ANY($3::text[]) AND model IS NULL
              AND stage NOT IN ('failed', 'canceled')) AS rivals,
           ARRAY(SELECT training_id FROM state.trainings WHERE training_id = ANY($8::text[])) AS registered
    FROM state.trainings t
    LEFT JOIN state.user_models m ON m.user_id = t.user_id AND m.user_id = ANY($3::text[])
    WHERE (t.training_id = ANY($1::text[]) OR t.ref = ANY($2::uuid[])) AND t.user_id = ANY($3::text[])
"""

# Constraints across these tables are checked when all of it is written.
_WRITE: Final = """
    WITH inbox AS (
        INSERT INTO state.inbox (event_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING
    ), trainings AS (
        UPDATE state.trainings t SET
            training_id     = coalesce(t.training_id, c.training_id),
            stage           = coalesce(c.stage, t.stage),
            model           = coalesce(t.model, c.model),
            failure_code    = CASE WHEN c.stage IS NULL THEN t.failure_code ELSE c.failure_code END,
            failure_reason  = CASE WHEN c.stage IS NULL THEN t.failure_reason ELSE c.failure_reason END,
            output          = coalesce(t.output, c.output),
            trainer         = coalesce(t.trainer, c.trainer),
            trainer_version = coalesce(t.trainer_version, c.trainer_version),
            started_at      = coalesce(t.started_at, c.started_at),
            completed_at    = coalesce(t.completed_at, c.completed_at),
            updated_at      = clock_timestamp()
        FROM json_to_recordset($2::json) AS c (
            ref uuid, training_id text, stage text, model text, failure_code text, failure_reason text, output text,
            trainer text, trainer_version text, started_at timestamptz, completed_at timestamptz)
        WHERE t.ref = c.ref AND t.ref = ANY($6::uuid[])
    ), history AS (
        INSERT INTO state.model_history
            (user_id, generation, ref, model, trigger_word, cause, previous_model, actor, reason, at)
        SELECT user_id, generation, ref, model, trigger_word, cause, previous, actor, reason, statement_timestamp()
        FROM json_to_recordset($3::json) AS s (
            user_id text, generation bigint, ref uuid, model text, trigger_word text, previous text, cause text,
            actor text, reason text)
    ), outbox AS (
        INSERT INTO state.outbox (event_id, user_id, generation, routing_key, headers, body)
        SELECT event_id, user_id, generation, routing_key, headers, body::json
        FROM json_to_recordset($5::json) AS e (
            event_id text, user_id text, generation bigint, routing_key text, headers json, body text)
    )
    INSERT INTO state.user_models AS m (user_id, generation, ref, model, trigger_word, activated_at)
    SELECT user_id, generation, ref, model, trigger_word, statement_timestamp()
    FROM json_to_recordset($4::json) AS s (user_id text, generation bigint, ref uuid, model text, trigger_word text)
    ON CONFLICT (user_id) DO UPDATE SET
        generation   = excluded.generation,
        ref          = excluded.ref,
        model        = excluded.model,
        trigger_word = excluded.trigger_word,
        activated_at = excluded.activated_at
    WHERE m.generation < excluded.generation
    RETURNING m.user_id
"""

# Replicate says the same twice a second: what is not new writes nothing, and is told to nobody who follows.
# Progress only rises, but for one correction: a later report of another total that is at least ten points lower
# replaces what was counted to its end (that was other work: no training goes on counting behind its end), and what has
# not moved for five minutes (no evaluation that is misread, and no late webhook, takes so long). A report is of another
# total where the stored step makes another share of it than the stored one.
_RECORD_PROGRESS: Final = """
    WITH reported AS (
        SELECT r.*, coalesce(
            (SELECT ref FROM state.trainings WHERE training_id = r.training_id),
            (SELECT ref FROM state.trainings WHERE ref = r.claimed_ref AND training_id IS NULL)) AS ref
        FROM json_to_recordset($1::json) AS r (
            training_id text, claimed_ref uuid, step integer, total integer, percent smallint, source text,
            at timestamptz)
    ), free AS (
        SELECT t.ref, t.step, t.progress, t.progress_at, t.updated_at
        FROM state.trainings t
        WHERE t.ref = ANY(ARRAY(SELECT ref FROM reported)) AND t.stage IN ('requested', 'running')
        FOR NO KEY UPDATE OF t SKIP LOCKED
    ), judged AS (
        SELECT r.*,
            coalesce(r.percent > coalesce(t.progress, -1), false) AS rises,
            coalesce(r.percent = t.progress AND r.step > coalesce(t.step, -1), false) AS advances,
            coalesce(
                r.percent <= t.progress - 10 AND r.at > t.progress_at AND r.total IS NOT NULL
                AND (t.step IS NULL OR abs(least(99, 100::bigint * t.step / r.total) - t.progress) > 1)
                AND (t.progress = 99 OR r.at > t.updated_at + interval '5 minutes'), false) AS corrects
        FROM reported r JOIN free t USING (ref)
    )
    UPDATE state.trainings t SET
        stage           = 'running',
        step            = CASE WHEN r.rises OR r.advances OR r.corrects THEN coalesce(r.step, t.step) ELSE t.step END,
        total_steps     = CASE WHEN r.corrects OR r.step > t.total_steps THEN coalesce(r.total, t.total_steps)
                               ELSE coalesce(t.total_steps, r.total) END,
        progress        = CASE WHEN r.corrects THEN r.percent ELSE greatest(t.progress, r.percent) END,
        progress_source = CASE WHEN r.rises OR r.corrects THEN r.source ELSE t.progress_source END,
        progress_at     = CASE WHEN r.rises OR r.corrects THEN r.at ELSE t.progress_at END,
        started_at      = coalesce(t.started_at, r.at),
        updated_at      = clock_timestamp()
    FROM judged r
    WHERE t.ref = r.ref AND t.ref = ANY(ARRAY(SELECT ref FROM free)) AND t.stage IN ('requested', 'running')
      AND (t.stage = 'requested' OR t.started_at IS NULL OR r.rises OR r.advances OR r.corrects
           OR (t.total_steps IS NULL AND r.total IS NOT NULL))
"""

_LOCK_USER: Final = """
    SELECT next_generation, deleted_at IS NOT NULL AS is_deleted FROM state.users WHERE user_id = $1 FOR NO KEY UPDATE
"""
_DRAW: Final = "UPDATE state.users SET next_generation = next_generation + 1 WHERE user_id = $1"

_REGISTER: Final = """
    WITH drawn AS (
        INSERT INTO state.users AS u (user_id, next_generation) VALUES ($2, 2)
        ON CONFLICT (user_id) DO UPDATE SET next_generation = u.next_generation + 1 WHERE u.deleted_at IS NULL
        RETURNING next_generation - 1 AS generation
    ), registered AS (
        INSERT INTO state.trainings
            (ref, user_id, generation, training_id, destination, trainer, trigger_word, total_steps)
        SELECT $1, $2, generation, $3, $4, $5, $6, $7 FROM drawn
        ON CONFLICT (training_id) DO NOTHING
        RETURNING ref
    )
    SELECT EXISTS (SELECT FROM drawn) AS has_drawn, EXISTS (SELECT FROM registered) AS is_registered
"""

_TAKE_KEY: Final = """
    INSERT INTO state.idempotency_keys (key, request_digest, ref, generation) VALUES ($1, $2, $3, $4)
    ON CONFLICT (key) DO NOTHING
    RETURNING key
"""
_GET_KEY: Final = "SELECT request_digest, ref, generation FROM state.idempotency_keys WHERE key = $1"
# Of this training only: by now the key may be that of the next one.
_FORGET_KEY: Final = "DELETE FROM state.idempotency_keys WHERE key = $1 AND ref = $2"

_REPORT: Final = """
    INSERT INTO state.outbox (event_id, user_id, generation, routing_key, headers, body)
    SELECT event_id, user_id, generation, routing_key, headers, body::json
    FROM json_to_recordset($1::json) AS e (
        event_id text, user_id text, generation bigint, routing_key text, headers json, body text)
    ON CONFLICT (event_id) DO NOTHING
"""

# What failed without an id of Replicate's was taken for not started: it is requested again.
_ATTACH: Final = """
    UPDATE state.trainings SET
        training_id = $2, stage = CASE stage WHEN 'failed' THEN 'requested' ELSE stage END,
        failure_code = NULL, failure_reason = NULL, completed_at = NULL, updated_at = clock_timestamp()
    WHERE ref = $1 AND training_id IS NULL
"""
_FAIL_START: Final = """
    UPDATE state.trainings SET
        stage = 'failed', failure_code = $2, failure_reason = $3,
        completed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE ref = $1 AND stage IN ('requested', 'running') AND training_id IS NULL
"""

_ASKED: Final = """
    SELECT ref, training_id, user_id, generation, destination::text, trigger_word, stage, trainer_version, started_at,
           output, model::text
    FROM state.trainings
"""
_GET_ASKED: Final = _ASKED + "WHERE ref = $1"
_NEWEST_WITHOUT_MODEL: Final = (
    _ASKED + "WHERE user_id = $1 AND stage IN ('verifying', 'unverified') ORDER BY generation DESC LIMIT 1"
)
#: Two trainings may have made the same model.
_FIND_MAKER: Final = _ASKED + "WHERE user_id = $1 AND model = $2 ORDER BY generation DESC LIMIT 1"
_WHOLE_HISTORY: Final = """
    SELECT cause, ref, model::text, previous_model::text FROM state.model_history WHERE user_id = $1 ORDER BY generation
"""
# The line of the history must be there: the database asks for it.
_TAKE_AWAY: Final = "DELETE FROM state.user_models WHERE user_id = $1 AND generation < $2"

# What belongs to a training is looked up, never joined: a plan made while those tables were small may read all of them.
_TRAINING: Final = """
    SELECT t.number, t.ref, t.training_id, t.user_id, t.generation, t.destination::text, t.trainer, t.trigger_word,
           t.total_steps, t.stage, t.step, t.progress, t.progress_source, t.progress_at, t.model::text,
           t.failure_code, t.failure_reason, t.requested_at, t.started_at, t.completed_at, t.updated_at,
           coalesce((SELECT m.ref = t.ref FROM state.user_models m WHERE m.user_id = t.user_id), false) AS is_current,
           -- Few trainings have a model, so few ask the history.
           CASE WHEN t.model IS NOT NULL THEN
               (SELECT max(h.generation) FROM state.model_history h
                WHERE h.user_id = t.user_id AND h.ref = t.ref AND h.model IS NOT NULL)
           END AS activated_generation,
           coalesce((SELECT s.percent FROM state.shown_progress s WHERE s.ref = t.ref), 0) AS shown,
           (SELECT ARRAY[d.low_seconds, d.median_seconds, d.high_seconds]
            FROM state.trainer_durations d WHERE d.trainer = split_part(t.trainer, ':', 1)) AS learned
    FROM state.trainings t
"""
_FIND_BY_ID: Final = _TRAINING + "WHERE t.training_id = $1"
_FIND_BY_REF: Final = _TRAINING + "WHERE t.ref = $1"
_FIND_TRAININGS: Final = _TRAINING + "WHERE t.ref = ANY($1::uuid[])"
_PAGE: Final = " ORDER BY t.number DESC LIMIT $2"
#: By: is a user asked for, is a stage asked for. Each has an index of its own.
_LIST_TRAININGS: Final = {
    (False, False): _TRAINING + "WHERE t.number < $1" + _PAGE,
    (False, True): _TRAINING + "WHERE t.number < $1 AND t.stage = $3" + _PAGE,
    (True, False): _TRAINING + "WHERE t.number < $1 AND t.user_id = $3" + _PAGE,
    (True, True): _TRAINING + "WHERE t.number < $1 AND t.user_id = $3 AND t.stage = $4" + _PAGE,
}

# What was requested since then begins at one place of the numbers.
_LIST_OUTPUTS: Final = """
    SELECT number, ref, training_id, user_id, stage, destination::text, trainer, trainer_version, model::text, output
    FROM state.trainings
    WHERE number >= (SELECT number FROM state.trainings WHERE requested_at >= $1 ORDER BY requested_at LIMIT 1)
      AND number < $2 AND output IS NOT NULL AND training_id IS NOT NULL
    ORDER BY number DESC
    LIMIT $3
"""

# In one order, so that two who show the same trainings do not wait for each other in a circle.
_KEEP_SHOWN: Final = """
    INSERT INTO state.shown_progress AS s (ref, percent)
    SELECT * FROM unnest($1::uuid[], $2::smallint[]) AS shown (ref, percent) ORDER BY ref
    ON CONFLICT (ref) DO UPDATE SET percent = excluded.percent WHERE s.percent < excluded.percent
"""

_FIND_MODEL: Final = """
    SELECT m.user_id, m.model::text, m.generation, t.training_id, m.ref, m.trigger_word, m.activated_at
    FROM state.user_models m JOIN state.trainings t USING (ref)
    WHERE m.user_id = $1
"""
_CURRENT: Final = """
    SELECT generation AS current_generation, ref AS current_ref, model::text AS current_model
    FROM state.user_models
    WHERE user_id = $1
"""
_GET_SWAP: Final = """
    SELECT h.user_id, h.model::text, h.generation, t.training_id, h.ref, h.trigger_word, h.at AS activated_at
    FROM state.model_history h JOIN state.trainings t USING (ref)
    WHERE h.user_id = $1 AND h.generation = $2
"""
_HISTORY: Final = """
    SELECT h.generation, h.model::text, h.previous_model::text, t.training_id, h.ref, h.trigger_word, h.cause, h.actor,
           h.reason, h.at
    FROM state.model_history h JOIN state.trainings t USING (ref)
"""
_GET_LINE: Final = _HISTORY + "WHERE h.user_id = $1 AND h.generation = $2"
_LIST_HISTORY: Final = _HISTORY + "WHERE h.user_id = $1 AND h.generation < $2 ORDER BY h.generation DESC LIMIT $3"

# Nobody waits for the disk here: a mark that is lost in a crash makes an event go out twice, which it may anyway.
_TRY_LOCK_RELAY: Final = """
    SELECT pg_try_advisory_xact_lock(hashtextextended('state.outbox', 0))
       AND set_config('synchronous_commit', 'off', true) = 'off'
"""
# Never "beyond the last one published": a lower id may be committed later.
_UNPUBLISHED: Final = """
    SELECT id, headers, body FROM state.outbox
    WHERE published_at IS NULL AND set_aside_at IS NULL AND id <> ALL($2::bigint[])
    ORDER BY id
    LIMIT $1
"""
_MARK_PUBLISHED: Final = "UPDATE state.outbox SET published_at = clock_timestamp() WHERE id = ANY($1::bigint[])"
_SET_ASIDE: Final = """
    UPDATE state.outbox SET set_aside_at = clock_timestamp(), set_aside_reason = s.reason
    FROM unnest($1::bigint[], $2::text[]) AS s (id, reason)
    WHERE outbox.id = s.id
"""
_COUNT_SET_ASIDE: Final = "SELECT count(*) FROM state.outbox WHERE set_aside_at IS NOT NULL AND published_at IS NULL"

# The oldest rows are the ones to go, so this reads as many as it may delete, however long the table.
_PRUNE_OUTBOX: Final = """
    DELETE FROM state.outbox
    WHERE id IN (SELECT id FROM state.outbox ORDER BY id LIMIT $2) AND published_at < clock_timestamp() - $1::interval
    RETURNING true
"""
_PRUNE_INBOX: Final = """
    DELETE FROM state.inbox
    WHERE event_id IN (SELECT event_id FROM state.inbox WHERE received_at < clock_timestamp() - $1::interval LIMIT $2)
    RETURNING true
"""
_PRUNE_KEYS: Final = """
    DELETE FROM state.idempotency_keys
    WHERE key IN (SELECT key FROM state.idempotency_keys WHERE created_at < clock_timestamp() - $1::interval LIMIT $2)
    RETURNING true
"""
_TRY_LOCK_LEARNING: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('state.trainer_durations', 0))"
_SUCCEEDED: Final = """
    t.stage IN ('verifying', 'active', 'replaced', 'superseded', 'unverified') AND t.trainer IS NOT NULL
"""
# Else a trainer's last trainings may be found by reading all of them.
_FOLLOW_THE_INDEX: Final = "SET LOCAL enable_bitmapscan = off"
# From one trainer straight to the next, however many trainings each has.
_LIST_TRAINERS: Final = f"""
    WITH RECURSIVE trainers AS (
        (SELECT split_part(t.trainer, ':', 1) AS trainer FROM state.trainings t WHERE {_SUCCEEDED} ORDER BY 1 LIMIT 1)
        UNION ALL
        SELECT (SELECT split_part(t.trainer, ':', 1) FROM state.trainings t
                WHERE {_SUCCEEDED} AND split_part(t.trainer, ':', 1) > trainers.trainer ORDER BY 1 LIMIT 1)
        FROM trainers WHERE trainers.trainer IS NOT NULL
    )
    SELECT trainer FROM trainers WHERE trainer IS NOT NULL
"""  # noqa: S608 (what is put in stands above)
# Of each no more than its last trainings.
_LEARN: Final = f"""
    WITH measured AS (
        SELECT trainers.trainer, count(*) AS trainings,
               percentile_cont(ARRAY[0.1, 0.5, 0.9]) WITHIN GROUP (ORDER BY seconds) AS seconds
        FROM unnest($4::text[]) AS trainers (trainer), LATERAL (
            SELECT extract(epoch FROM t.completed_at - t.started_at)::double precision AS seconds
            FROM state.trainings t
            WHERE {_SUCCEEDED} AND split_part(t.trainer, ':', 1) = trainers.trainer
            ORDER BY t.number DESC
            LIMIT $2
        ) AS took
        WHERE seconds BETWEEN 1 AND extract(epoch FROM $3::interval)
        GROUP BY trainers.trainer
        HAVING count(*) >= $1
    )
    INSERT INTO state.trainer_durations AS d (trainer, trainings, low_seconds, median_seconds, high_seconds)
    SELECT trainer, trainings, seconds[1], seconds[2], seconds[3] FROM measured
    ON CONFLICT (trainer) DO UPDATE SET
        trainings      = excluded.trainings,
        low_seconds    = excluded.low_seconds,
        median_seconds = excluded.median_seconds,
        high_seconds   = excluded.high_seconds,
        learned_at     = excluded.learned_at
    WHERE (d.trainings, d.low_seconds, d.median_seconds, d.high_seconds)
        <> (excluded.trainings, excluded.low_seconds, excluded.median_seconds, excluded.high_seconds)
    RETURNING true
"""  # noqa: S608 (what is put in stands above)

_END: Final = 2**63 - 1


class _RollBack(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a transaction that was only tried."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes = changes


def _log_committed(changes: Changes) -> None:
    """Log each swap, rollback, withdrawal and superseded model of *changes*, which are committed."""
    actors = {(line.user_id, line.generation): (line.actor, line.reason) for line in changes.lines}
    for outgoing in changes.outbox:
        match outgoing.envelope.event:
            case ModelActivated() as event:
                actor, reason = actors[event.user_id, event.generation]
                name = "model.rolled_back" if event.cause is Cause.ROLLBACK else "model.swapped"
                facts = {"cause": event.cause, "actor": actor, "reason": reason, "previous": _shown(event.previous)}
                log_fact(log, name, outgoing.envelope, generation=event.generation, model=str(event.model), **facts)
            case ModelWithdrawn() as event:
                actor, reason = actors[event.user_id, event.generation]
                facts = {"actor": actor, "reason": reason, "previous": str(event.previous)}
                log_fact(log, "model.withdrawn", outgoing.envelope, generation=event.generation, **facts)
            case ModelSuperseded() as event:
                log_fact(
                    log,
                    "model.superseded",
                    outgoing.envelope,
                    generation=event.generation,
                    model=str(event.model),
                    current_generation=event.current_generation,
                )


def _log_registered(record: TrainingRecord) -> None:
    log.info("training.registered", **_ids(record), generation=record.generation, destination=str(record.destination))


def _ids(record: TrainingRecord) -> dict[str, str | None]:
    return {"training_id": record.training_id, "ref": str(record.ref), "user_id": record.user_id}


def _shown(model: ModelRef | None) -> str | None:
    return None if model is None else str(model)


class Store:
    """The tables of schema `state`."""

    def __init__(self, pool: Pool) -> None:
        """*pool* acts as `ROLE`."""
        self._pool = pool
        #: Set whenever this process has committed something to publish.
        self.outbox_filled = asyncio.Event()

    # Deliveries

    async def apply(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """Apply *envelopes* in one transaction; say of each what became of it."""
        changes = await self._transaction(lambda connection: self._apply(connection, envelopes))
        telemetry.swaps.inc(len(changes.swaps))
        if changes.outbox:
            self.outbox_filled.set()
        _log_committed(changes)
        return changes.results

    async def preview(self, envelope: Envelope) -> Changes:
        """What `apply` would change now; nothing is changed."""

        async def work(connection: Connection) -> NoReturn:
            changes = await self._apply(connection, [envelope])
            # What is checked at a commit must be asked for where none comes.
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            raise _RollBack(changes)

        try:
            await self._transaction(work)
        except _RollBack as done:
            return done.changes

    async def _apply(self, connection: Connection, envelopes: Sequence[Envelope]) -> Changes:
        snapshot = await self._load_locked(connection, envelopes)
        changes = fold(envelopes, snapshot, now=now())
        if changes.applied or changes.trainings:
            await self._write(connection, changes)
        return changes

    async def _load_locked(self, connection: Connection, envelopes: Sequence[Envelope]) -> Snapshot:
        training_ids = list({envelope.event.training_id for envelope in envelopes})
        refs = list({ref for envelope in envelopes if (ref := claimed_ref(envelope.event)) is not None})
        users = await connection.fetch(_LOCK_USERS, training_ids, refs)
        if not users:
            return Snapshot(trainings=(), models={})
        user_ids = [user["user_id"] for user in users]
        event_ids = [inbox_id(envelope) for envelope in envelopes]
        outputs = [envelope.event.training_id for envelope in envelopes if lacks_destination(envelope.event)]
        looked_up = [model for envelope in envelopes if (model := looked_up_model(envelope.event)) is not None]
        models, names = [str(model) for model in looked_up], [str(model.model) for model in looked_up]
        rivals = [name for envelope in envelopes for name in rivals_of(envelope.event)]
        rows = await connection.fetch(_LOAD, training_ids, refs, user_ids, event_ids, outputs, models, names, rivals)
        return Snapshot(
            trainings=[to_training(row) for row in rows],
            models={row["user_id"]: to_current(row) for row in rows if row["current_generation"] is not None},
            withdrawn={
                row["user_id"]: row["withdrawn_generation"] for row in rows if row["withdrawn_generation"] is not None
            },
            deleted_users={user["user_id"] for user in users if user["is_deleted"]},
            applied=frozenset(rows[0]["applied"]) if rows else (),
            made=frozenset(map(to_made, rows[0]["made"])) if rows else (),
            shared=frozenset(map(to_model_name, rows[0]["shared"])) if rows else (),
            rivals=to_rivals(rows[0]["rivals"]) if rows else (),
            registered=frozenset(rows[0]["registered"]) if rows else (),
        )

    async def _write(self, connection: Connection, changes: Changes) -> None:
        current = changes.current
        swapped = await connection.fetch(
            _WRITE,
            changes.applied,
            to_json([from_training_change(change) for change in changes.trainings]),
            to_json([*map(from_swap, changes.swaps), *map(from_withdrawal, changes.withdrawals)]),
            to_json([from_swap(swap) for swap in current]),
            to_json([from_outgoing(outgoing) for outgoing in changes.outbox]),
            [change.ref for change in changes.trainings],
        )
        if len(swapped) != len(current):
            # The lock makes this impossible. If it happens all the same, nothing of it may be kept.
            raise Conflict("a newer model was committed while its user was locked")
        for withdrawal in changes.withdrawals:
            await connection.execute(_TAKE_AWAY, withdrawal.user_id, withdrawal.generation)

    async def record_progress(self, reports: Sequence[Report]) -> None:
        """Remember how far trainings are: only ever further, only of those that still run."""
        rows = to_json([from_report(report) for report in reports])

        async def work(connection: Connection) -> None:
            # Lossy by nature: the next report says it again, so nobody waits for the disk.
            await connection.execute("SET LOCAL synchronous_commit TO off")
            await connection.execute(_RECORD_PROGRESS, rows)

        await self._transaction(work)

    # Registrations

    async def register(
        self, registration: Registration, key: IdempotencyKey | None = None
    ) -> tuple[TrainingRecord, bool]:
        """
        Write a training down and draw its generation; with a *key* that was used before, find what it registered.

        A key whose training Replicate was never asked for is as good as new.

        Returns the training, and whether it is new.

        Raises:
            KeyReused: if *key* came with another request before.
            UserDeleted: if the user is.

        """
        found, is_new = await self._transaction(lambda connection: self._register_once(connection, registration, key))
        if is_new:
            _log_registered(found)
        return found, is_new

    async def _register_once(
        self, connection: Connection, registration: Registration, key: IdempotencyKey | None
    ) -> tuple[TrainingRecord, bool]:
        used = await self._used(connection, key)
        if key and used:
            found = await self._get(connection, used["ref"])
            if found.failure is None or found.failure.code != NOT_STARTED:
                return found, False
            # Nothing runs under this key: the request is as good as new.
            await connection.execute(_FORGET_KEY, key.key, found.ref)
        await self._take(connection, key, registration.ref)
        return await self._register(connection, registration), True

    async def adopt(
        self, registration: Registration, report: TrainingEvent | None = None
    ) -> tuple[TrainingRecord, bool]:
        """
        Write down a training that runs already, or find it if it is known. *report* is published if it is new.

        Raises:
            RegisteredOtherwise: if something else is known of it than what *registration* says.
            UserDeleted: if the user is.

        """
        found, is_new = await self._transaction(lambda connection: self._adopt(connection, registration, report))
        if is_new:
            _log_registered(found)
            if report is not None:
                self.outbox_filled.set()
        return found, is_new

    async def report(self, record: TrainingRecord, event: TrainingEvent) -> None:
        """Publish what Replicate said of a training, unless that was done before."""
        await self._transaction(lambda connection: self._report(connection, record, event))
        self.outbox_filled.set()

    async def _report(self, connection: Connection, record: TrainingRecord, event: TrainingEvent) -> None:
        outgoing = Outgoing(wrap(event, source=SOURCE, now=now()), record.user_id, record.generation)
        await connection.execute(_REPORT, to_json([from_outgoing(outgoing)]))

    async def _adopt(
        self, connection: Connection, registration: Registration, report: TrainingEvent | None
    ) -> tuple[TrainingRecord, bool]:
        known = await self._find(connection, registration.training_id) if registration.training_id else None
        if known is None:
            record = await self._register(connection, registration)
            if report is not None:
                await self._report(connection, record, report)
            return record, True
        if others := registration.differences(known):
            raise RegisteredOtherwise(f"training {known.training_id} is registered with another {' and '.join(others)}")
        return known, False

    async def _register(self, connection: Connection, registration: Registration) -> TrainingRecord:
        row = await connection.fetchrow(
            _REGISTER,
            registration.ref,
            registration.user_id,
            registration.training_id,
            str(registration.destination),
            str(registration.trainer) if registration.trainer else None,
            registration.trigger_word,
            registration.total_steps,
        )
        if row is None or not row["has_drawn"]:
            raise UserDeleted(f"user {registration.user_id} was deleted")
        if not row["is_registered"]:
            raise Conflict(f"training {registration.training_id} was registered just now")
        return await self._get(connection, registration.ref)

    async def attach(self, record: TrainingRecord, training_id: str) -> TrainingRecord:
        """Remember Replicate's id of a training, unless a webhook was faster."""

        async def work(connection: Connection) -> TrainingRecord:
            await connection.execute(_LOCK_USER, record.user_id)
            await connection.execute(_ATTACH, record.ref, training_id)
            return await self._get(connection, record.ref)

        return await self._transaction(work)

    async def fail_start(self, record: TrainingRecord, failure: Failure) -> None:
        """Remember that Replicate did not start a training. After `NOT_STARTED` its key may start another one."""

        async def work(connection: Connection) -> None:
            await connection.execute(_LOCK_USER, record.user_id)
            await connection.execute(_FAIL_START, record.ref, failure.code, failure.reason)

        await self._transaction(work)

    # What people ask

    async def look_again(self, user_id: str, ref: UUID | None, key: IdempotencyKey | None = None) -> TrainingRecord:
        """
        Have the model looked for once more of a training, or of the user's newest that succeeded without one.

        Raises:
            KeyReused: if *key* came with another request before.
            NoTraining: if there is none.
            NotRetryable: if there is nothing to look for in it.
            UserDeleted: if the user is.

        """
        request_id = uuid4()

        async def work(connection: Connection) -> TrainingRecord:
            await self._lock(connection, user_id)
            used = await self._used(connection, key)
            if used is not None:
                return await self._get(connection, used["ref"])
            asked = (_NEWEST_WITHOUT_MODEL, user_id) if ref is None else (_GET_ASKED, ref)
            row = await connection.fetchrow(*asked)
            if row is None:
                raise NoTraining(f"user {user_id} has no training that succeeded without a model of its own")
            await self._take(connection, key, row["ref"])
            await self._write(connection, look_again(to_training(row), request_id=request_id, now=now()))
            return await self._get(connection, row["ref"])

        record = await self._transaction(work)
        self.outbox_filled.set()
        log.info("extraction.requested", **_ids(record), request_id=str(request_id))
        return record

    async def roll_back(
        self, order: RollbackOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> ModelRecord:
        """
        Make an earlier model the current one again; in a dry run only say what would be.

        Raises:
            KeyReused: if *key* came with another request before.
            PermanentError: if that can not be, as `asking.roll_back` says.
            UserDeleted: if the user is.

        """

        async def decide(connection: Connection, current: CurrentModel | None, generation: int) -> Changes:
            target = await self._find_target(connection, order)
            return roll_back(order, current, target, generation=generation, now=now())

        made = planned_model, self._get_swap
        return await self._change_model(order.user_id, decide, made, key, is_dry_run=is_dry_run)

    async def withdraw(
        self, order: WithdrawalOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> HistoryRecord:
        """
        Take the user's current model away; in a dry run only say what would be.

        Raises:
            KeyReused: if *key* came with another request before.
            PermanentError: if that can not be, as `asking.withdraw` says.
            UserDeleted: if the user is.

        """

        async def decide(connection: Connection, current: CurrentModel | None, generation: int) -> Changes:
            row = await connection.fetchrow(_GET_ASKED, current.ref) if current else None
            return withdraw(order, current, to_target(row) if row else None, generation=generation, now=now())

        made = planned_withdrawal, self._get_line
        return await self._change_model(order.user_id, decide, made, key, is_dry_run=is_dry_run)

    async def _change_model(
        self,
        user_id: str,
        decide: Callable[[Connection, CurrentModel | None, int], Awaitable[Changes]],
        made: tuple[Callable[[Changes, datetime], T], Callable[[Connection, str, int], Awaitable[T]]],
        key: IdempotencyKey | None,
        *,
        is_dry_run: bool,
    ) -> T:
        """Write what an operator *decides* about a user's model. *made*: what that would make, and what it made."""
        planned, get = made

        async def work(connection: Connection) -> tuple[T, Changes | None]:
            generation = await self._lock(connection, user_id)
            used = None if is_dry_run else await self._used(connection, key)
            if used is not None:
                return await get(connection, user_id, used["generation"]), None
            row = await connection.fetchrow(_CURRENT, user_id)
            changes = await decide(connection, to_current(row) if row else None, generation)
            if is_dry_run:
                return planned(changes, now()), None
            (line,) = changes.lines
            await self._take(connection, key, line.ref, generation)
            await connection.execute(_DRAW, user_id)
            await self._write(connection, changes)
            return await get(connection, user_id, generation), changes

        record, changes = await self._transaction(work)
        if changes is not None:
            telemetry.swaps.inc(len(changes.swaps))
            self.outbox_filled.set()
            _log_committed(changes)
        return record

    async def _find_target(self, connection: Connection, order: RollbackOrder) -> Target | None:
        if order.to is not None:
            row = await connection.fetchrow(_FIND_MAKER, order.user_id, str(order.to))
        else:
            history = await connection.fetch(_WHOLE_HISTORY, order.user_id)
            row = await connection.fetchrow(_GET_ASKED, model_before([to_line(each) for each in history]))
        return to_target(row) if row else None

    # Questions

    async def find_training(self, name: str | UUID) -> TrainingRecord | None:
        """A training by Replicate's id (text) or by our ref."""
        async with acquired(self._pool) as connection:
            return await self._find(connection, name)

    async def find_trainings(self, refs: Sequence[UUID]) -> list[TrainingRecord]:
        """Those of these trainings that are known."""
        async with acquired(self._pool) as connection:
            return await self._show(connection, await connection.fetch(_FIND_TRAININGS, refs))

    async def list_trainings(
        self, *, user_id: str | None, stage: Stage | None, before: int | None, limit: int
    ) -> list[TrainingRecord]:
        """At most *limit* trainings that were registered *before* that number, newest first."""
        statement = _LIST_TRAININGS[user_id is not None, stage is not None]
        wanted = [value for value in (user_id, stage) if value is not None]
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(statement, _END if before is None else before, limit, *wanted)
            return await self._show(connection, rows)

    async def list_outputs(self, *, since: datetime, before: int | None, limit: int) -> list[OutputRecord]:
        """At most *limit* outputs of trainings that were requested *since* then, *before* that number, newest first."""
        rows = await self._fetch(_LIST_OUTPUTS, since, _END if before is None else before, limit)
        return [to_output(row) for row in rows]

    async def find_model(self, user_id: str) -> ModelRecord | None:
        """The model that a user uses now."""
        rows = await self._fetch(_FIND_MODEL, user_id)
        return to_model(rows[0]) if rows else None

    async def list_history(self, user_id: str, *, before: int | None, limit: int) -> list[HistoryRecord]:
        """At most *limit* of a user's swaps *before* that generation, newest first."""
        rows = await self._fetch(_LIST_HISTORY, user_id, _END if before is None else before, limit)
        return [to_history(row) for row in rows]

    # The outbox

    async def relay(self, publish: Publish, *, limit: int, without: Collection[int] = ()) -> Round | None:
        """
        Publish the oldest *limit* unpublished events, and mark the confirmed. None: another relay is at it.

        What can not be published as it is, is set aside; somebody must repair it.

        The rows *without* which it is done stay as they are.
        """
        return await self._transaction(lambda connection: self._relay(connection, publish, limit, without))

    async def _relay(
        self, connection: Connection, publish: Publish, limit: int, without: Collection[int]
    ) -> Round | None:
        if not await connection.fetchval(_TRY_LOCK_RELAY):
            return None
        rows = await connection.fetch(_UNPUBLISHED, limit, list(without))
        envelopes, unreadable = to_envelopes(rows)
        results = await publish(list(envelopes.values())) if envelopes else ()
        ends = dict(zip(envelopes, results, strict=True))
        confirmed = [number for number, end in ends.items() if end is None]
        unpublishable = {number: end for number, end in ends.items() if isinstance(end, Unpublishable)}
        failures = [end for end in ends.values() if end is not None and not isinstance(end, Unpublishable)]
        if confirmed:
            await connection.execute(_MARK_PUBLISHED, confirmed)
        if unpublishable:
            reasons = [f"{error.code}: {error}" for error in unpublishable.values()]
            await connection.execute(_SET_ASIDE, list(unpublishable), reasons)
        set_aside = await connection.fetchval(_COUNT_SET_ASIDE)
        return Round(len(confirmed), tuple(failures), unreadable, unpublishable, set_aside)

    async def prune(self, *, limit: int) -> int:
        """Delete at most *limit* rows of each kind that nobody needs any more; return how many it were at most."""
        kinds = ((_PRUNE_OUTBOX, _KEEP_PUBLISHED), (_PRUNE_INBOX, _KEEP_INBOX), (_PRUNE_KEYS, _KEEP_KEYS))
        return max([len(await self._fetch(statement, keep, limit)) for statement, keep in kinds])

    # Time

    async def list_trainers(self) -> list[str]:
        """The trainers of all trainings that succeeded, without their versions."""

        async def work(connection: Connection) -> list[str]:
            await connection.execute(_FOLLOW_THE_INDEX)
            return [row["trainer"] for row in await connection.fetch(_LIST_TRAINERS)]

        return await self._transaction(work)

    async def learn_durations(self, trainers: Sequence[str]) -> int:
        """Learn how long the last trainings of each of *trainers* took; return of how many that is new."""
        return await self._transaction(lambda connection: self._learn(connection, trainers))

    async def _learn(self, connection: Connection, trainers: Sequence[str]) -> int:
        if not await connection.fetchval(_TRY_LOCK_LEARNING):
            return 0
        await connection.execute(_FOLLOW_THE_INDEX)
        return len(await connection.fetch(_LEARN, LEARN_FROM, _LEARN_LAST, _LONGEST_TRAINING, trainers))

    # Below

    async def _transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await in_transaction(self._pool, work)

    async def _fetch(self, statement: str, *values: Any) -> list[Record]:
        async with acquired(self._pool) as connection:
            return await connection.fetch(statement, *values)

    async def _lock(self, connection: Connection, user_id: str) -> int:
        """Lock a user; the generation that would be drawn next."""
        user = await connection.fetchrow(_LOCK_USER, user_id)
        if user is None:
            return 1
        if user["is_deleted"]:
            raise UserDeleted(f"user {user_id} was deleted")
        generation: int = user["next_generation"]
        return generation

    async def _used(self, connection: Connection, key: IdempotencyKey | None) -> Record | None:
        """What *key* was used for before."""
        used = await connection.fetchrow(_GET_KEY, key.key) if key else None
        if key and used and used["request_digest"] != key.digest:
            raise KeyReused(f"the Idempotency-Key {key.key} was used for another request")
        return used

    async def _take(
        self, connection: Connection, key: IdempotencyKey | None, ref: UUID, generation: int | None = None
    ) -> None:
        if key and not await connection.fetchval(_TAKE_KEY, key.key, key.digest, ref, generation):
            raise Conflict(f"the Idempotency-Key {key.key} was used just now")

    async def _get_swap(self, connection: Connection, user_id: str, generation: int) -> ModelRecord:
        row = await connection.fetchrow(_GET_SWAP, user_id, generation)
        if row is None:
            raise Conflict(f"generation {generation} of user {user_id} is gone")
        return to_model(row)

    async def _get_line(self, connection: Connection, user_id: str, generation: int) -> HistoryRecord:
        row = await connection.fetchrow(_GET_LINE, user_id, generation)
        if row is None:
            raise Conflict(f"generation {generation} of user {user_id} is gone")
        return to_history(row)

    async def _find(self, connection: Connection, name: str | UUID) -> TrainingRecord | None:
        statement = _FIND_BY_REF if isinstance(name, UUID) else _FIND_BY_ID
        found = await self._show(connection, await connection.fetch(statement, name))
        return found[0] if found else None

    async def _show(self, connection: Connection, rows: Sequence[Record]) -> list[TrainingRecord]:
        """What is guessed is kept before anybody is shown it: however the next guess or a log is, it is not less."""
        moment = now()
        records = [to_record(row, moment) for row in rows]
        risen = {
            record.ref: record.shown.percent
            for row, record in zip(rows, records, strict=True)
            if record.shown.source == ProgressSource.ESTIMATE and record.shown.percent > row["shown"]
        }
        if risen:
            await connection.execute(_KEEP_SHOWN, list(risen), list(risen.values()))
        return records

    async def _get(self, connection: Connection, ref: UUID) -> TrainingRecord:
        found = await self._find(connection, ref)
        if found is None:
            raise Conflict(f"training {ref} is gone")
        return found
