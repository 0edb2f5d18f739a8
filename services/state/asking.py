"""
What may still be asked of a training, and of a user's model? Pure, but for the one call that cancels.

    look again    what succeeded without a usable model is looked at once more, through the same gate
    roll back     an earlier model becomes the current one. That draws a generation of its own, so it beats whatever
                  was requested before it, however late that is ready
    withdraw      the current model is taken away, so that the user has none. That draws a generation, too, so it beats
                  the same
    cancel        Replicate is asked to end a training; the stage changes when Replicate says that it did

Rows are given as they are while their user is locked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from services.state.records import TrainingRecord
from services.state.swap import (
    SOURCE,
    Changes,
    CurrentModel,
    Outgoing,
    Swap,
    Training,
    TrainingChange,
    Withdrawal,
    requested_extraction,
)
from services.state.transitions import Fact, Stage, next_stage
from shared.contract.envelope import wrap
from shared.contract.errors import PermanentError
from shared.contract.events import Cause, Event, ModelActivated, ModelReverted, ModelWithdrawn
from shared.contract.identity import ModelRef
from shared.replicate.errors import NotThere, Refused
from shared.replicate.training import Training as ReplicateTraining

_UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING)
_HAS_MODEL: Final = ("has_model", "has its model already: there is nothing to look for")
#: Why there is nothing to look for, by the stages where there is not.
_NOTHING_TO_LOOK_FOR: Final[Mapping[Stage, tuple[str, str]]] = {
    Stage.REQUESTED: ("still_running", "has not ended: its model is looked for when it succeeds"),
    Stage.RUNNING: ("still_running", "has not ended: its model is looked for when it succeeds"),
    Stage.FAILED: ("training_failed", "failed, so it made no model: start another one"),
    Stage.CANCELED: ("training_canceled", "was canceled, so it made no model: start another one"),
    Stage.ACTIVE: _HAS_MODEL,
    Stage.REPLACED: _HAS_MODEL,
    Stage.SUPERSEDED: _HAS_MODEL,
}


class NoTraining(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """No such training is registered, or the user has none that could be looked at again."""

    code = "no_training"


class NotRetryable(PermanentError):  # noqa: N818 (likewise)
    """There is nothing to look for in this training."""

    code = "not_retryable"
    codes = tuple(dict.fromkeys(code for code, _ in _NOTHING_TO_LOOK_FOR.values()))


class NotCancelable(PermanentError):  # noqa: N818 (likewise)
    """This training can not be canceled."""

    code = "not_cancelable"
    codes = ("already_ended", "id_not_known_yet", "cancel_refused")


class NoModel(PermanentError):  # noqa: N818 (likewise)
    """The user has no model."""

    code = "no_model"


class NothingToRollBackTo(PermanentError):  # noqa: N818 (likewise)
    """The user has used no other model, or only such as were taken back."""

    code = "nothing_to_roll_back_to"


class AlreadyCurrent(PermanentError):  # noqa: N818 (likewise)
    """The user uses that model now."""

    code = "already_current"


class NotTheirs(PermanentError):  # noqa: N818 (likewise)
    """None of the user's trainings has made that model."""

    code = "not_their_model"


class PreconditionFailed(PermanentError):  # noqa: N818 (likewise)
    """The user's model is another one than `If-Match` names."""

    code = "precondition_failed"


@dataclass(frozen=True, slots=True)
class RollbackOrder:
    """An earlier model is to be used again."""

    user_id: str
    #: None: the one before, as `services.state.previous` says which that is.
    to: ModelRef | None
    reason: str
    actor: str
    #: Only if the current model has one of these generations; None: whichever it has.
    only_from: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class WithdrawalOrder:
    """The current model is to be taken away."""

    user_id: str
    reason: str
    actor: str
    #: As in a `RollbackOrder`.
    only_from: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A training whose model was proven good, and that model."""

    training: Training
    training_id: str
    model: ModelRef


class Replicate(Protocol):
    """What is asked of Replicate."""

    async def cancel_training(self, training_id: str) -> ReplicateTraining: ...


def look_again(training: Training, *, request_id: UUID, now: datetime) -> Changes:
    """
    Have the model of *training* looked for once more.

    Raises:
        NotRetryable: if there is nothing to look for.

    """
    stage = next_stage(training.stage, Fact.ASKED_AGAIN)
    if stage is None or training.training_id is None:
        code, why = _NOTHING_TO_LOOK_FOR[training.stage]
        raise NotRetryable(f"training {training.training_id or training.ref} {why}", code=code)
    event = requested_extraction(training, training.training_id, request_id)
    return _changes(
        [TrainingChange(training.ref, stage=stage)], [], [event], training.user_id, training.generation, now=now
    )


def roll_back(
    order: RollbackOrder, current: CurrentModel | None, target: Target | None, *, generation: int, now: datetime
) -> Changes:
    """
    Make the model of *target* the current one again, as *generation*. After a withdrawal there is no *current* one.

    Raises:
        NoModel, PreconditionFailed, AlreadyCurrent, NotTheirs, NothingToRollBackTo: if that can not be.

    """
    if current is None and target is None:
        raise _no_model(order.user_id)
    _check_seen(order, current)
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
    activated = ModelActivated(
        training_id=target.training_id,
        user_id=swap.user_id,
        generation=swap.generation,
        ref=swap.ref,
        model=swap.model,
        previous=swap.previous,
        trigger_word=swap.trigger_word,
        cause=swap.cause,
    )
    noted = ModelReverted(
        training_id=target.training_id,
        user_id=swap.user_id,
        generation=swap.generation,
        model=swap.model,
        previous=swap.previous,
        actor=swap.actor,
        reason=swap.reason,
    )
    moved = [
        *([] if current is None else [_displaced(current)]),
        TrainingChange(target.training.ref, stage=next_stage(target.training.stage, Fact.CHOSEN)),
    ]
    return _changes(moved, [swap], [activated, noted], swap.user_id, swap.generation, now=now)


def withdraw(
    order: WithdrawalOrder, current: CurrentModel | None, made: Target | None, *, generation: int, now: datetime
) -> Changes:
    """
    Take the *current* model away, as *generation*; *made* is its training.

    Raises:
        NoModel, PreconditionFailed: if that can not be.

    """
    if current is None or made is None:
        raise _no_model(order.user_id)
    _check_seen(order, current)
    withdrawal = Withdrawal(order.user_id, generation, current.ref, current.model, order.reason, order.actor)
    withdrawn = ModelWithdrawn(
        training_id=made.training_id,
        user_id=withdrawal.user_id,
        generation=generation,
        ref=withdrawal.ref,
        previous=withdrawal.previous,
    )
    noted = ModelReverted(
        training_id=made.training_id,
        user_id=withdrawal.user_id,
        generation=generation,
        previous=withdrawal.previous,
        actor=withdrawal.actor,
        reason=withdrawal.reason,
    )
    changes = _changes([_displaced(current)], [], [withdrawn, noted], order.user_id, generation, now=now)
    return replace(changes, withdrawals=[withdrawal])


async def cancel(record: TrainingRecord, replicate: Replicate) -> None:
    """
    Ask Replicate to end a training.

    Raises:
        NotCancelable: if it has ended, or Replicate does not do it.
        DependencyDown: if Replicate is away. It may be asked again.

    """
    name = record.training_id or record.ref
    if record.stage not in _UNDERWAY:
        raise NotCancelable(f"training {name} has ended: it is {record.stage}", code="already_ended")
    if record.training_id is None:
        raise NotCancelable(
            f"Replicate's id of training {name} is not known yet: try again in a moment", code="id_not_known_yet"
        )
    try:
        await replicate.cancel_training(record.training_id)
    except (NotThere, Refused) as error:
        raise NotCancelable(str(error), code="cancel_refused") from error


def _check_seen(order: RollbackOrder | WithdrawalOrder, current: CurrentModel | None) -> None:
    if order.only_from is None or (current is not None and current.generation in order.only_from):
        return
    now = "no model" if current is None else f"a model of generation {current.generation}"
    raise PreconditionFailed(f"user {order.user_id} has {now} now: look at it before you go on")


def _displaced(current: CurrentModel) -> TrainingChange:
    return TrainingChange(current.ref, stage=next_stage(Stage.ACTIVE, Fact.DISPLACED))


def _no_model(user_id: str) -> NoModel:
    return NoModel(f"user {user_id} has no model")


def _no_target(order: RollbackOrder) -> PermanentError:
    if order.to is not None:
        return NotTheirs(f"{order.to} was never made and proven good by a training of user {order.user_id}")
    return NothingToRollBackTo(
        f"user {order.user_id} has used no other model that was not taken back: name in `to` which one to use"
    )


def _changes(
    trainings: list[TrainingChange],
    swaps: list[Swap],
    events: Sequence[Event],
    user_id: str,
    generation: int,
    *,
    now: datetime,
) -> Changes:
    outbox = [Outgoing(wrap(event, source=SOURCE, now=now), user_id, generation) for event in events]
    return Changes((), (), trainings, swaps, outbox)
