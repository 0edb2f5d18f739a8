"""Orders about a user's model or a training: rollback, withdrawal, retry of an extraction. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID, uuid4

import structlog

from services.state.changes import Changes, CurrentModel
from services.state.extraction import NoTraining, retry_extraction
from services.state.rollback import (
    Line,
    NoModel,
    RollbackOrder,
    Target,
    WithdrawalOrder,
    model_before,
    roll_back,
    withdraw,
)
from services.state.store.queries import get_swapped_model, get_training, get_withdrawal
from services.state.store.session import Session, find_key, lock_user, take_key, to_model_ref, to_training
from services.state.store.write import report_committed, write_locked
from services.state.views import ModelView, TrainingView, WithdrawalView
from shared.contract.idempotency import IdempotencyKey
from shared.contract.identity import ModelRef
from shared.contract.values import Cause
from shared.runtime.clock import now
from shared.runtime.postgres import Connection, Record

log = structlog.get_logger()

T = TypeVar("T")
#: Decides on an order about a user's current model; the generation is the one to draw.
Decide = Callable[[Connection, CurrentModel | None, int], Awaitable[Changes]]

_TRAINING: Final = """
    SELECT ref, training_id, user_id, generation, destination::text, trigger_word, stage, trainer_version, started_at,
           reported_at, output, model::text
    FROM state.trainings
"""
_BY_REF: Final = _TRAINING + "WHERE ref = $1"
_NEWEST_WITHOUT_MODEL: Final = (
    _TRAINING + "WHERE user_id = $1 AND stage IN ('verifying', 'unverified') ORDER BY generation DESC LIMIT 1"
)
# Two trainings may have made the same model.
_BY_MODEL: Final = _TRAINING + "WHERE user_id = $1 AND model = $2 ORDER BY generation DESC LIMIT 1"
_HISTORY: Final = """
    SELECT cause, ref, model::text, previous_model::text FROM state.model_history WHERE user_id = $1 ORDER BY generation
"""
_CURRENT: Final = "SELECT generation, ref, model::text FROM state.user_models WHERE user_id = $1"
_DRAW: Final = "UPDATE state.users SET next_generation = next_generation + 1 WHERE user_id = $1"


class Orders(Session):
    """Carries out orders."""

    async def retry_extraction(self, user_id: str, ref: UUID | None, key: IdempotencyKey | None = None) -> TrainingView:
        """
        Request another extraction of a training, or of the user's newest one that succeeded without a model.

        Raises:
            KeyReused: if *key* came with another request before.
            NoTraining: if there is no such training.
            NotRetryable: if its stage does not allow it.
            UserDeleted: if the user was deleted.

        """
        request_id = uuid4()

        async def work(connection: Connection) -> tuple[TrainingView, bool]:
            is_locked = await lock_user(connection, user_id) is not None
            used = await find_key(connection, key)
            if used is not None:
                return await get_training(connection, used["ref"]), False
            wanted = (_NEWEST_WITHOUT_MODEL, user_id) if ref is None else (_BY_REF, ref)
            row = await connection.fetchrow(*wanted) if is_locked else None
            if row is None:
                raise NoTraining(f"user {user_id} has no training that succeeded without a model of its own")
            await take_key(connection, key, row["ref"])
            changes = retry_extraction(to_training(row), request_id=request_id, now=now())
            await write_locked(connection, changes, user_id)
            return await get_training(connection, row["ref"]), True

        record, is_new = await self._transaction(work)
        if is_new:
            self.outbox_filled.set()
            ids = {"training_id": record.training_id, "ref": str(record.ref), "user_id": record.user_id}
            log.info("extraction.requested", **ids, request_id=str(request_id))
        return record

    async def roll_back(
        self, order: RollbackOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> ModelView:
        """
        Make an earlier model the current one; in a dry run only return what would be.

        Raises:
            KeyReused: if *key* came with another request before.
            PermanentError: those of `rollback.roll_back`.
            UserDeleted: if the user was deleted.

        """

        async def decide(connection: Connection, current: CurrentModel | None, generation: int) -> Changes:
            target = await _find_target(connection, order)
            return roll_back(order, current, target, generation=generation, now=now())

        return await self._change_model(order.user_id, decide, get_swapped_model, key, is_dry_run=is_dry_run)

    async def withdraw(
        self, order: WithdrawalOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> WithdrawalView:
        """
        Take the user's current model away; in a dry run only return what would be.

        Raises:
            KeyReused: if *key* came with another request before.
            PermanentError: those of `rollback.withdraw`.
            UserDeleted: if the user was deleted.

        """

        async def decide(connection: Connection, current: CurrentModel | None, generation: int) -> Changes:
            row = await connection.fetchrow(_BY_REF, current.ref) if current else None
            return withdraw(order, current, _to_target(row), generation=generation, now=now())

        return await self._change_model(order.user_id, decide, get_withdrawal, key, is_dry_run=is_dry_run)

    async def _change_model(
        self,
        user_id: str,
        decide: Decide,
        get: Callable[[Connection, str, int], Awaitable[T]],
        key: IdempotencyKey | None,
        *,
        is_dry_run: bool,
    ) -> T:
        """Write what *decide* returns, and return what *get* finds of it. In a dry run roll all of it back."""

        async def work(connection: Connection) -> tuple[T, Changes]:
            generation = await lock_user(connection, user_id)
            used = None if is_dry_run else await find_key(connection, key)
            if used is not None:
                return await get(connection, user_id, used["generation"]), Changes()
            if generation is None:
                # A user that is registered from now on is not locked, so nothing may be decided from its rows.
                raise NoModel(f"user {user_id} has no model")
            row = await connection.fetchrow(_CURRENT, user_id)
            current = CurrentModel(row["generation"], row["ref"], to_model_ref(row["model"])) if row else None
            changes = await decide(connection, current, generation)
            (line,) = changes.lines
            if not is_dry_run:
                await take_key(connection, key, line.ref, generation)
            await connection.execute(_DRAW, user_id)
            await write_locked(connection, changes, user_id)
            return await get(connection, user_id, generation), changes

        if is_dry_run:
            answer, _ = await self._dry_run(work)
            return answer
        answer, changes = await self._transaction(work)
        self.outbox_filled.set()
        report_committed(changes, now())
        return answer


async def _find_target(connection: Connection, order: RollbackOrder) -> Target | None:
    if order.to is not None:
        return _to_target(await connection.fetchrow(_BY_MODEL, order.user_id, str(order.to)))
    history = [_to_line(row) for row in await connection.fetch(_HISTORY, order.user_id)]
    return _to_target(await connection.fetchrow(_BY_REF, model_before(history)))


def _to_target(row: Record | None) -> Target | None:
    return None if row is None else Target(to_training(row), row["training_id"], to_model_ref(row["model"]))


def _to_line(row: Record) -> Line:
    return Line(Cause(row["cause"]), row["ref"], _model(row["model"]), _model(row["previous_model"]))


def _model(text: str | None) -> ModelRef | None:
    return None if text is None else to_model_ref(text)
