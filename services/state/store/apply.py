"""A batch of events: one transaction of lock, load, `fold` and write. Edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.state.changes import Changes, CurrentModel, Result, Rival, Snapshot
from services.state.extraction import lacks_destination
from services.state.ownership import looked_up_model, rivals_of
from services.state.store.session import Session, to_model_name, to_model_ref, to_training
from services.state.store.write import log_committed, write
from services.state.swap import claimed_ref, fold, inbox_id
from shared.contract.envelope import Envelope
from shared.contract.identity import ModelRef
from shared.runtime import telemetry
from shared.runtime.clock import now
from shared.runtime.postgres import Connection, Record

# The only lock, taken first and in the order of user ids, so that writers cannot deadlock and nothing is decided on a
# row that changes meanwhile. READ COMMITTED is enough because of it. Only `record_progress` does without: it skips rows
# that are locked, and touches no column that decides.
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

# Rows are named by ``= ANY(array)`` even if a join implies it: so each is found by its index, and a plan made while the
# tables were empty stays good when they are large. A training that was registered after the lock was taken is left out,
# because its user is not locked.
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


class Events(Session):
    """Applies events to trainings and models."""

    async def apply(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """
        Apply *envelopes* in one transaction; return one result for each.

        Raises:
            DependencyDown: if Postgres is away.
            ModelswapError: if the batch as a whole cannot be applied. Each envelope may be tried alone.

        """
        changes = await self._transaction(lambda connection: _apply(connection, envelopes))
        telemetry.swaps.inc(len(changes.swaps))
        if changes.outbox:
            self.outbox_filled.set()
        log_committed(changes)
        return changes.results

    async def preview(self, envelope: Envelope) -> Changes:
        """Return what `apply` would change; change nothing."""
        return await self._dry_run(lambda connection: _apply(connection, [envelope]))


async def _apply(connection: Connection, envelopes: Sequence[Envelope]) -> Changes:
    changes = fold(envelopes, await _load_locked(connection, envelopes), now=now())
    if changes.applied or changes.trainings:
        await write(connection, changes)
    return changes


async def _load_locked(connection: Connection, envelopes: Sequence[Envelope]) -> Snapshot:
    events = [envelope.event for envelope in envelopes]
    training_ids = list({event.training_id for event in events})
    refs = list({ref for event in events if (ref := claimed_ref(event)) is not None})
    users = await connection.fetch(_LOCK_USERS, training_ids, refs)
    if not users:
        return Snapshot(trainings=(), models={})
    looked_up = [model for event in events if (model := looked_up_model(event)) is not None]
    rows = await connection.fetch(
        _LOAD,
        training_ids,
        refs,
        [user["user_id"] for user in users],
        [inbox_id(envelope) for envelope in envelopes],
        [event.training_id for event in events if lacks_destination(event)],
        [str(model) for model in looked_up],
        [str(model.model) for model in looked_up],
        [name for event in events for name in rivals_of(event)],
    )
    # These columns are the same in every row.
    batch: Any = rows[0] if rows else {"applied": (), "made": (), "shared": (), "rivals": None, "registered": ()}
    return Snapshot(
        trainings=[to_training(row) for row in rows],
        models={row["user_id"]: _to_current(row) for row in rows if row["current_generation"] is not None},
        withdrawn={row["user_id"]: fence for row in rows if (fence := row["withdrawn_generation"]) is not None},
        deleted_users={user["user_id"] for user in users if user["is_deleted"]},
        applied=frozenset(batch["applied"]),
        made=frozenset(map(_to_made, batch["made"])),
        shared=frozenset(map(to_model_name, batch["shared"])),
        rivals=[_to_rival(rival) for rival in json.loads(batch["rivals"] or "[]")],
        registered=frozenset(batch["registered"]),
    )


def _to_current(row: Record) -> CurrentModel:
    return CurrentModel(row["current_generation"], row["current_ref"], to_model_ref(row["current_model"]))


def _to_made(text: str) -> tuple[ModelRef, UUID]:
    model, _, ref = text.partition(" ")
    return to_model_ref(model), UUID(ref)


def _to_rival(row: Any) -> Rival:
    started_at, completed_at = (
        None if row[name] is None else datetime.fromisoformat(row[name]) for name in ("started_at", "completed_at")
    )
    return Rival(UUID(row["ref"]), to_model_name(row["destination"]), started_at, completed_at)
