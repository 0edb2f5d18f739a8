"""
Rollback and withdrawal of a user's model. Pure: rows read while the user is locked become changes.

*roll back*  an earlier model becomes the current one
*withdraw*   the current model is taken away; the user has none

Both draw a generation of their own, so they beat every training that was requested before them, whenever it ends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.state.changes import Changes, CurrentModel, OutboxEvent, Swap, Training, TrainingChange, Withdrawal
from services.state.transitions import Fact, Stage, next_stage
from shared.contract.errors import PermanentError
from shared.contract.events import ModelActivated, ModelReverted, ModelWithdrawn
from shared.contract.identity import ModelRef
from shared.contract.values import Cause

_BY_OPERATORS: Final = (Cause.ROLLBACK, Cause.WITHDRAWAL)


class NoModel(PermanentError):
    """The user has no model."""

    code = "no_model"


class NothingToRollBackTo(PermanentError):
    """The user has used no other model, or only models that an operator took back."""

    code = "nothing_to_roll_back_to"


class AlreadyCurrent(PermanentError):
    """The model is the user's current one already."""

    code = "already_current"


class NotTheirs(PermanentError):
    """None of the user's trainings made the model."""

    code = "not_their_model"


class PreconditionFailed(PermanentError):
    """The user's current model is not one that `If-Match` names."""

    code = "precondition_failed"


@dataclass(frozen=True, slots=True)
class RollbackOrder:
    """Make an earlier model the current one."""

    user_id: str
    #: None: the one that `model_before` returns.
    to: ModelRef | None
    reason: str
    actor: str
    #: Generations that the current model may have; None: any.
    only_from: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class WithdrawalOrder:
    """Take the current model away."""

    user_id: str
    reason: str
    actor: str
    #: As in a `RollbackOrder`.
    only_from: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A training with a verified model."""

    training: Training
    training_id: str
    model: ModelRef


@dataclass(frozen=True, slots=True)
class Line:
    """Columns of a history row that `model_before` needs."""

    cause: Cause
    #: The training that made the model.
    ref: UUID
    #: None: a withdrawal.
    model: ModelRef | None
    previous: ModelRef | None


def model_before(history: Sequence[Line]) -> UUID | None:
    """
    Return the training whose model a rollback without a target goes back to. *history*: oldest row first.

    That is the newest model in the history that is not the current one and that no operator has taken back. An operator
    takes a model back by a rollback (undoing a replay is one) or a withdrawal; it stays so until an operator names it,
    also if another training makes the same model.
    """
    if not history:
        return None
    skipped = {history[-1].model, None} | _taken_back(history)
    return next((line.ref for line in reversed(history) if line.model not in skipped), None)


def _taken_back(history: Sequence[Line]) -> set[ModelRef | None]:
    models: set[ModelRef | None] = set()
    for line in history:
        if line.cause in _BY_OPERATORS:
            models.add(line.previous)
            models.discard(line.model)
    return models


def roll_back(
    order: RollbackOrder, current: CurrentModel | None, target: Target | None, *, generation: int, now: datetime
) -> Changes:
    """
    Make the model of *target* the current one, as *generation*. After a withdrawal there is no *current* one.

    Raises:
        NoModel, PreconditionFailed, AlreadyCurrent, NotTheirs, NothingToRollBackTo: if the order cannot be carried out.

    """
    if current is None and target is None:
        raise NoModel(f"user {order.user_id} has no model")
    _check_precondition(order, current)
    if current is not None and order.to == current.model:
        raise AlreadyCurrent(f"user {order.user_id} uses {current.model} already")
    if target is None:
        raise _no_target(order)
    swap = Swap(
        order.user_id,
        generation,
        target.training.ref,
        target.model,
        target.training.trigger_word,
        current.model if current else None,
        cause=Cause.ROLLBACK,
        reason=order.reason,
        actor=order.actor,
    )
    chosen = TrainingChange(target.training.ref, stage=next_stage(target.training.stage, Fact.CHOSEN))
    return Changes(
        trainings=[chosen] if current is None else [_displaced(current), chosen],
        swaps=[swap],
        outbox=_outbox(swap, swap.activated(target.training_id), now=now),
    )


def withdraw(
    order: WithdrawalOrder, current: CurrentModel | None, made: Target | None, *, generation: int, now: datetime
) -> Changes:
    """
    Take the *current* model away, as *generation*; *made* is its training.

    Raises:
        NoModel, PreconditionFailed: if the order cannot be carried out.

    """
    if current is None or made is None:
        raise NoModel(f"user {order.user_id} has no model")
    _check_precondition(order, current)
    withdrawal = Withdrawal(order.user_id, generation, current.ref, current.model, order.reason, order.actor)
    withdrawn = ModelWithdrawn(
        training_id=made.training_id,
        user_id=order.user_id,
        generation=generation,
        ref=withdrawal.ref,
        previous=withdrawal.previous,
    )
    return Changes(
        trainings=[_displaced(current)],
        withdrawals=[withdrawal],
        outbox=_outbox(withdrawal, withdrawn, now=now),
    )


def _check_precondition(order: RollbackOrder | WithdrawalOrder, current: CurrentModel | None) -> None:
    if order.only_from is None or (current is not None and current.generation in order.only_from):
        return
    now = "no model" if current is None else f"a model of generation {current.generation}"
    raise PreconditionFailed(f"user {order.user_id} has {now} now: look at it before you go on")


def _outbox(
    line: Swap | Withdrawal, public: ModelActivated | ModelWithdrawn, *, now: datetime
) -> Sequence[OutboxEvent]:
    """Return the *public* event of *line*, and the one for operators."""
    reverted = ModelReverted(
        training_id=public.training_id,
        user_id=line.user_id,
        generation=line.generation,
        model=line.model,
        previous=line.previous,
        actor=line.actor,
        reason=line.reason,
    )
    return [OutboxEvent.of(event, line.user_id, line.generation, now=now) for event in (public, reverted)]


def _displaced(current: CurrentModel) -> TrainingChange:
    return TrainingChange(current.ref, stage=next_stage(Stage.ACTIVE, Fact.DISPLACED))


def _no_target(order: RollbackOrder) -> PermanentError:
    if order.to is not None:
        return NotTheirs(f"{order.to} was never made and proven good by a training of user {order.user_id}")
    return NothingToRollBackTo(
        f"user {order.user_id} has used no other model that was not taken back: say which one to roll back to"
    )
