"""
A batch of events: load, `fold` and write. Edge.

Two statements without a lock between them: the write changes only users that have not changed since the load (see
`write`). Deliveries about the others, which are few, are applied again in a transaction that locks their users first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from services.state.changes import Changes, CurrentModel, Loaded, Result, Rival
from services.state.extraction import lacks_destination
from services.state.store.session import Session, to_model_name, to_model_ref, to_training
from services.state.store.write import report_committed, write
from services.state.swap import claimed_ref, fold, inbox_id
from shared.contract.envelope import Envelope
from shared.contract.errors import PermanentError
from shared.contract.events import ModelReady
from shared.contract.identity import ModelRef
from shared.runtime.clock import now
from shared.runtime.postgres import Connection, Record, acquired
from shared.runtime.postgres_errors import Conflict

# In the order of user ids, so that writers cannot deadlock.
_LOCK_USERS: Final = """
    SELECT FROM state.users
    WHERE user_id = ANY(ARRAY(
        SELECT user_id FROM state.trainings WHERE training_id = ANY($1::text[])
        UNION ALL
        SELECT user_id FROM state.trainings WHERE ref = ANY($2::uuid[])
    ))
    ORDER BY user_id
    FOR NO KEY UPDATE
"""

# Rows are named by ``= ANY(array)`` even if a join implies it: so each is found by its index, and a plan made while the
# tables were empty stays good when they are large. For the same reason, users are joined from the left, and other
# conditions are ``IS TRUE``, which keeps them from being looked up in an index.
LOAD: Final = """
    WITH users AS MATERIALIZED (
        SELECT user_id, xmin AS version, deleted_at IS NOT NULL AS is_deleted
        FROM state.users
        WHERE user_id = ANY(ARRAY(
            SELECT user_id FROM state.trainings WHERE training_id = ANY($1::text[])
            UNION ALL
            SELECT user_id FROM state.trainings WHERE ref = ANY($2::uuid[])
        ))
    )
    SELECT u.version, u.is_deleted,
           t.ref, t.training_id, t.user_id, t.generation, t.destination::text, t.trigger_word, t.stage,
           t.trainer_version, t.started_at, t.reported_at,
           CASE WHEN t.training_id = ANY($4::text[]) THEN t.output END AS output,
           m.generation AS current_generation, m.ref AS current_ref, m.model::text AS current_model,
           CASE WHEN m.generation IS NULL THEN
               (SELECT h.generation FROM state.model_history h
                WHERE h.user_id = t.user_id ORDER BY h.generation DESC LIMIT 1) END AS withdrawn_generation,
           ARRAY(SELECT event_id FROM state.inbox WHERE event_id = ANY($3::text[])) AS applied,
           ARRAY(SELECT model || ' ' || ref FROM state.trainings WHERE model = ANY($5::text[])) AS made,
           ARRAY(SELECT name FROM unnest($6::text[]) AS name
                 WHERE (SELECT min(user_id) FROM state.trainings WHERE destination = name)
                    <> (SELECT max(user_id) FROM state.trainings WHERE destination = name)) AS shared,
           CASE WHEN t.destination = ANY($6::text[]) THEN
               (SELECT json_agg(json_build_object('ref', r.ref, 'destination', r.destination,
                                                  'started_at', r.started_at, 'completed_at', r.completed_at))
                FROM state.trainings r
                WHERE r.destination = t.destination AND r.user_id = t.user_id
                  AND (r.model IS NULL AND r.stage NOT IN ('failed', 'canceled')) IS TRUE) END AS rivals,
           ARRAY(SELECT training_id FROM state.trainings WHERE training_id = ANY($7::text[])) AS registered
    FROM state.trainings t
    LEFT JOIN users u ON u.user_id = t.user_id
    LEFT JOIN state.user_models m
        ON m.user_id = t.user_id AND m.user_id = ANY(ARRAY(SELECT user_id FROM users))
    WHERE t.training_id = ANY($1::text[]) OR t.ref = ANY($2::uuid[])
"""


#: Result of a delivery whose user has changed since the load.
_CHANGED: Final = Conflict("the user has changed meanwhile")


class Events(Session):
    """Applies events to trainings and models."""

    async def apply(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """
        Apply *envelopes*, all of one user in one transaction; return one result for each.

        Raises:
            DependencyDown: if Postgres is away.
            ModelswapError: if the batch as a whole cannot be applied. Each envelope may be tried alone.

        """
        try:
            async with acquired(self._pool) as connection:
                results = self._committed(await _apply(connection, envelopes))
        except (Conflict, PermanentError):  # also a constraint that only stale rows violate
            results = [_CHANGED] * len(envelopes)
        again = [number for number, result in enumerate(results) if result is _CHANGED]
        if again:
            late = [envelopes[number] for number in again]
            changes = await self._transaction(lambda connection: _apply_locked(connection, late))
            for number, result in zip(again, self._committed(changes), strict=True):
                results[number] = result
        return results

    async def preview(self, envelope: Envelope) -> Changes:
        """Return what `apply` would change; change nothing."""
        return await self._dry_run(lambda connection: _apply_locked(connection, [envelope]))

    def _committed(self, changes: Changes) -> list[Result]:
        if changes.outbox:
            self.outbox_filled.set()
        report_committed(changes, now())
        return list(changes.results)


async def _apply(connection: Connection, envelopes: Sequence[Envelope]) -> Changes:
    """Apply *envelopes*; return what was written. The result of those whose user changed meanwhile is `_CHANGED`."""
    loaded = await _load(connection, envelopes)
    changes = fold(envelopes, loaded, now=now())
    if not (changes.applied or changes.trainings):
        return changes
    written = await write(connection, changes, loaded.versions)
    if len(written) == len(loaded.versions):
        return changes
    return replace(
        changes,
        results=[
            result if user is None or user in written else _CHANGED
            for user, result in zip(changes.users, changes.results, strict=True)
        ],
        swaps=[swap for swap in changes.swaps if swap.user_id in written],
        outbox=[event for event in changes.outbox if event.user_id in written],
    )


async def _apply_locked(connection: Connection, envelopes: Sequence[Envelope]) -> Changes:
    """Apply *envelopes* in a transaction whose first statement locks their users."""
    await connection.execute(_LOCK_USERS, *_names(envelopes))
    changes = await _apply(connection, envelopes)
    if _CHANGED in changes.results:
        raise Conflict("a training was registered while its user was being locked")
    return changes


def _names(envelopes: Sequence[Envelope]) -> tuple[Sequence[str], Sequence[UUID]]:
    """Return the training ids and the refs that *envelopes* name."""
    events = [envelope.event for envelope in envelopes]
    refs = {ref for event in events if (ref := claimed_ref(event)) is not None}
    return list({event.training_id for event in events}), list(refs)


async def _load(connection: Connection, envelopes: Sequence[Envelope]) -> Loaded:
    events = [envelope.event for envelope in envelopes]
    ready = [event for event in events if isinstance(event, ModelReady)]
    looked_up = [event.model for event in ready if event.evidence.looked_up]
    rows = await connection.fetch(
        LOAD,
        *_names(envelopes),
        [inbox_id(envelope) for envelope in envelopes],
        [event.training_id for event in events if lacks_destination(event)],
        [str(model) for model in looked_up],
        [str(model.model) for model in looked_up],
        [rival for event in ready for rival in event.evidence.rivals or ()],
    )
    if not rows:
        return Loaded(trainings=(), models={})
    batch = rows[0]  # some columns are the same in every row
    return Loaded(
        trainings=[to_training(row) for row in rows],
        models={row["user_id"]: _to_current(row) for row in rows if row["current_generation"] is not None},
        versions={row["user_id"]: row["version"] for row in rows},
        withdrawn={row["user_id"]: fence for row in rows if (fence := row["withdrawn_generation"]) is not None},
        deleted_users={row["user_id"] for row in rows if row["is_deleted"]},
        applied=frozenset(batch["applied"]),
        made=frozenset(map(_to_made, batch["made"])),
        shared=frozenset(map(to_model_name, batch["shared"])),
        rivals=[_to_rival(rival) for row in rows for rival in json.loads(row["rivals"] or "[]")],
        registered=frozenset(batch["registered"]),
    )


def _to_current(row: Record) -> CurrentModel:
    return CurrentModel(row["current_generation"], row["current_ref"], to_model_ref(row["current_model"]))


def _to_made(text: str) -> tuple[ModelRef, UUID]:
    model, _, ref = text.partition(" ")
    return to_model_ref(model), UUID(ref)


def _to_rival(row: Record) -> Rival:
    started_at, completed_at = (
        None if row[name] is None else datetime.fromisoformat(row[name]) for name in ("started_at", "completed_at")
    )
    return Rival(UUID(row["ref"]), to_model_name(row["destination"]), started_at, completed_at)
