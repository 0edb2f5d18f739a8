"""Registration of trainings, and the result of their start. Edge."""

from __future__ import annotations

from typing import Final

import structlog

from services.state.changes import Changes, Failure, OutboxEvent, TrainingChange
from services.state.registration import NOT_STARTED, Registration, UserDeleted
from services.state.store.outbox import INSERT_OUTBOX, outbox_rows
from services.state.store.queries import find_training, get_training
from services.state.store.session import LOCK_USER, Session, find_key, take_key
from services.state.store.write import write_locked
from services.state.transitions import Fact, next_stage
from services.state.views import TrainingView
from shared.contract.events import TrainingEvent
from shared.contract.idempotency import IdempotencyKey
from shared.runtime.clock import now
from shared.runtime.postgres import Connection
from shared.runtime.postgres_errors import Conflict

log = structlog.get_logger()

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
    ), named AS (
        INSERT INTO state.model_parts (part, name) SELECT state.parts_of($4), $4
        ON CONFLICT DO NOTHING
    )
    SELECT EXISTS (SELECT FROM drawn) AS has_drawn, EXISTS (SELECT FROM registered) AS is_registered
"""
# With the ref of the training, because the key may be another training's by now.
_FORGET_KEY: Final = "DELETE FROM state.idempotency_keys WHERE key = $1 AND ref = $2"
_REPORT: Final = f"{INSERT_OUTBOX.format('$1')} ON CONFLICT (event_id) DO NOTHING"


class Registrations(Session):
    """Registers trainings."""

    async def register(
        self, registration: Registration, key: IdempotencyKey | None = None
    ) -> tuple[TrainingView, bool]:
        """
        Store a training and draw its generation; with a *key* that was used before, return its training.

        A key whose training Replicate was never asked to run is free again.

        Returns the training, and whether it is new.

        Raises:
            KeyReused: if *key* came with another request before.
            UserDeleted: if the user was deleted.

        """

        async def work(connection: Connection) -> tuple[TrainingView, bool]:
            used = await find_key(connection, key)
            if key and used:
                found = await get_training(connection, used["ref"])
                if found.failure is None or found.failure.code != NOT_STARTED:
                    return found, False
                await connection.execute(_FORGET_KEY, key.key, found.ref)
            await take_key(connection, key, registration.ref)
            return await _register(connection, registration), True

        found, is_new = await self._transaction(work)
        if is_new:
            _log_registered(found)
        return found, is_new

    async def adopt(self, registration: Registration, report: TrainingEvent | None = None) -> tuple[TrainingView, bool]:
        """
        Store a training that runs already, or return it if it is registered. *report* is published if it is new.

        Raises:
            RegisteredOtherwise: if it is registered with other values.
            UserDeleted: if the user was deleted.

        """

        async def work(connection: Connection) -> tuple[TrainingView, bool]:
            known = registration.training_id and await find_training(connection, registration.training_id)
            if known:
                registration.check_same(known)
                return known, False
            record = await _register(connection, registration)
            if report is not None:
                await _report(connection, record, report)
            return record, True

        found, is_new = await self._transaction(work)
        if is_new:
            _log_registered(found)
            if report is not None:
                self.outbox_filled.set()
        return found, is_new

    async def report(self, record: TrainingView, event: TrainingEvent) -> None:
        """Publish what Replicate reports of a training, unless that was done before."""
        await self._transaction(lambda connection: _report(connection, record, event))
        self.outbox_filled.set()

    async def attach(self, record: TrainingView, training_id: str) -> TrainingView:
        """Store Replicate's id of a training, unless it has one."""

        async def work(connection: Connection) -> TrainingView:
            await connection.execute(LOCK_USER, record.user_id)
            found = await get_training(connection, record.ref)
            if found.training_id is not None:
                return found
            change = TrainingChange(found.ref, training_id, next_stage(found.stage, Fact.APPEARED))
            await write_locked(connection, Changes(trainings=[change]), record.user_id)
            return await get_training(connection, record.ref)

        return await self._transaction(work)

    async def fail_start(self, record: TrainingView, failure: Failure) -> None:
        """Store that Replicate did not start a training. After `NOT_STARTED` its key may start another one."""

        async def work(connection: Connection) -> None:
            await connection.execute(LOCK_USER, record.user_id)
            found = await get_training(connection, record.ref)
            stage = next_stage(found.stage, Fact.FAILED)
            if stage is None or found.training_id is not None:
                return
            change = TrainingChange(found.ref, stage=stage, failure=failure, completed_at=now())
            await write_locked(connection, Changes(trainings=[change]), record.user_id)

        await self._transaction(work)


async def _register(connection: Connection, registration: Registration) -> TrainingView:
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
    return await get_training(connection, registration.ref)


async def _report(connection: Connection, record: TrainingView, event: TrainingEvent) -> None:
    each = OutboxEvent.of(event, record.user_id, record.generation, now=now())
    await connection.execute(_REPORT, outbox_rows([each]))


def _log_registered(record: TrainingView) -> None:
    log.info(
        "training.registered",
        training_id=record.training_id,
        ref=str(record.ref),
        user_id=record.user_id,
        generation=record.generation,
        destination=str(record.destination),
    )
