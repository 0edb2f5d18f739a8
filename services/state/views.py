"""What does the product send, and what is it shown? Pure: the bodies of the API."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from services.state.records import HistoryRecord, ModelRecord, OutputRecord, TrainingRecord
from services.state.transitions import Stage
from shared.contract.events import Cause, ProgressSource
from shared.contract.identity import ModelName, ModelRef, UserId
from shared.contract.text import is_storable

_STEPS_MOST = 2**31 - 1


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not is_storable(value):
        raise ValueError("holds a NUL, half a surrogate pair or a number that is none")
    return value


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must consist of printable characters")
    return text


TriggerWord = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Steps = Annotated[int, Field(gt=0, le=_STEPS_MOST)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StartTraining(_Body):
    """A training that is to begin."""

    user_id: UserId
    #: The model on Replicate that becomes a version richer. It must exist.
    destination: ModelName
    #: Who trains: ``owner/name:version``. Needed where we start the training.
    trainer: ModelRef | None = None
    #: What Replicate gives the trainer. It is not kept.
    input: Annotated[dict[str, JsonValue], AfterValidator(_storable)] = {}
    #: The word in a prompt that calls up what was learned.
    trigger_word: TriggerWord = ""
    #: For progress. Taken from the input where that says it.
    total_steps: Steps | None = None
    #: False: you start the training yourself, with the `webhook_url` of the answer.
    start: bool = True


class RegisterTraining(_Body):
    """A training that runs already."""

    user_id: UserId
    destination: ModelName
    trainer: ModelRef | None = None
    trigger_word: TriggerWord = ""
    total_steps: Steps | None = None


class RollBack(_Body):
    """A user's model is to be an earlier one again."""

    #: ``owner/name:version``, one of the user's own; null: the one that was used before the current one.
    to: ModelRef | None = None
    #: Why. It is kept in the history.
    reason: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
    #: Who. It is kept in the history.
    actor: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)] = "api"
    #: True: nothing is changed, the answer says what would be.
    dry_run: bool = False


class NeverStarted(_Body):
    """Replicate was never asked for a training."""

    reason: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]


class FailureView(BaseModel):
    """Why a training has no usable model."""

    code: str
    reason: str


class TrainingView(BaseModel):
    """A training, as it is known now."""

    #: Our id of it.
    ref: UUID
    #: Replicate's id of it; null until that is known.
    training_id: str | None
    user_id: str
    #: The fence: of a user's trainings that prove good, the one with the highest generation is used, unless somebody
    #: rolled back: the model that was chosen then has a generation of its own.
    generation: int
    stage: Stage
    #: Is its model the one that the user uses now?
    current: bool
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    #: 0..100, and it never falls. 100 is said when the model can be used, and not before.
    progress: int
    #: Read from the log, or guessed from the time; null where neither is needed.
    progress_source: ProgressSource | None
    step: int | None
    total_steps: int | None
    #: How long it still runs, and between what, eight times of ten; null where nothing tells. No high one: it takes
    #: longer than was to be expected.
    eta_seconds: int | None
    eta_low_seconds: int | None
    eta_high_seconds: int | None
    #: When it should surely have ended; null where too few trainings of its trainer are known, or it has.
    overdue_at: datetime | None
    #: Its model, once that is proven.
    reference: ModelRef | None
    failure: FailureView | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    #: Where Replicate is to post what happens; only where you start the training yourself.
    webhook_url: str | None = None


class ModelView(BaseModel):
    """The model that a user uses now. None of it is ever null."""

    user_id: str
    #: ``owner/name:version``, ready to be run.
    reference: ModelRef
    owner: str
    name: str
    version: str
    #: Rises with every change; also the ETag.
    generation: int
    training_id: str
    ref: UUID
    trigger_word: str
    activated_at: datetime
    #: True where nothing was changed, and this is only what would be; else not there.
    dry_run: bool = False


class OutputView(BaseModel):
    """What came out of a training, and what it was taken for."""

    ref: UUID
    training_id: str
    user_id: str
    stage: Stage
    destination: ModelName
    trainer: ModelRef | None
    trainer_version: str | None
    #: Its model, if one was proven.
    reference: ModelRef | None
    #: As Replicate sent it.
    output: JsonValue


class SwapView(BaseModel):
    """One change of a user's model."""

    generation: int
    reference: ModelRef
    previous_reference: ModelRef | None
    training_id: str
    ref: UUID
    trigger_word: str
    cause: Cause
    actor: str
    reason: str
    at: datetime


def training_view(record: TrainingRecord, *, webhook_url: str | None = None) -> TrainingView:
    shown = record.shown
    failure = record.failure
    view = TrainingView(
        ref=record.ref,
        training_id=record.training_id,
        user_id=record.user_id,
        generation=record.generation,
        stage=record.stage,
        current=record.is_current,
        destination=record.destination,
        trainer=record.trainer,
        trigger_word=record.trigger_word,
        progress=shown.percent,
        progress_source=shown.source,
        step=record.step,
        total_steps=record.total_steps,
        eta_seconds=shown.eta_seconds,
        eta_low_seconds=shown.eta_low_seconds,
        eta_high_seconds=shown.eta_high_seconds,
        overdue_at=shown.overdue_at,
        reference=record.model,
        failure=FailureView(code=failure.code, reason=failure.reason) if failure else None,
        requested_at=record.requested_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        updated_at=record.updated_at,
    )
    # What was never set is left out of the answer.
    return view if webhook_url is None else view.model_copy(update={"webhook_url": webhook_url})


def model_view(record: ModelRecord) -> ModelView:
    return ModelView(
        user_id=record.user_id,
        reference=record.model,
        owner=record.model.owner,
        name=record.model.name,
        version=record.model.version,
        generation=record.generation,
        training_id=record.training_id,
        ref=record.ref,
        trigger_word=record.trigger_word,
        activated_at=record.activated_at,
    )


def output_view(record: OutputRecord) -> OutputView:
    return OutputView(
        ref=record.ref,
        training_id=record.training_id,
        user_id=record.user_id,
        stage=record.stage,
        destination=record.destination,
        trainer=record.trainer,
        trainer_version=record.trainer_version,
        reference=record.model,
        output=json.loads(record.output),
    )


def swap_view(record: HistoryRecord) -> SwapView:
    return SwapView(
        generation=record.generation,
        reference=record.model,
        previous_reference=record.previous_model,
        training_id=record.training_id,
        ref=record.ref,
        trigger_word=record.trigger_word,
        cause=record.cause,
        actor=record.actor,
        reason=record.reason,
        at=record.at,
    )
