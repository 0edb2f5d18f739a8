"""What does the product send, and what is it shown? Pure: the bodies of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from services.state.records import HistoryRecord, ModelRecord, OutputRecord, TrainingRecord
from services.state.transitions import Stage
from shared.contract.answers import NUMBER, Flag
from shared.contract.checked import PRINTABLE
from shared.contract.events import Cause, ProgressSource
from shared.contract.identity import ModelName, ModelRef, UserId
from shared.contract.text import is_storable

_STEPS_MOST = 2**31 - 1

#: What the examples in the API's description are about.
_USER: Final = "user-42"
_DESTINATION: Final = "acme/user-42"
_MODEL: Final = f"{_DESTINATION}:{'5c' * 32}"
_EARLIER_MODEL: Final = f"{_DESTINATION}:{'0f' * 32}"
_TRAINER: Final = f"ostris/flux-dev-lora-trainer:{'e4' * 32}"
_TRAINING: Final = {"ref": "e20ad9a4-9b23-4faa-a751-c61b367e9b79", "training_id": "zz4ibbonubfz7carwiefibzgga"}


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not is_storable(value):
        raise ValueError("holds a NUL, half a surrogate pair or a number that is none")
    return value


def _from_token(_: object) -> None:
    raise ValueError("is the name of the token, and can not be said: leave it out")


#: Who asks. It stood in requests once, so it is refused in words; no document of the API shows it.
FromToken = Annotated[SkipJsonSchema[None], BeforeValidator(_from_token)]
TriggerWord = Annotated[str, Field(max_length=200), PRINTABLE]
Steps = Annotated[int, Field(gt=0, le=_STEPS_MOST), NUMBER]


def _example(values: Mapping[str, Any], **keywords: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [dict(values)], **keywords})


class _Body(BaseModel):
    # What stands below a field is its description in the API's own.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _View(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class StartTraining(_Body):
    """A training that is to begin."""

    model_config = _example(
        {
            "user_id": _USER,
            "destination": _DESTINATION,
            "trainer": _TRAINER,
            "input": {"input_images": "https://example.com/photos.zip", "steps": 1000},
            "trigger_word": "TOK",
        },
        anyOf=[
            {"properties": {"start": {"const": False}}, "required": ["start"]},
            {"properties": {"trainer": {"type": "string"}}, "required": ["trainer"]},
        ],
    )

    user_id: UserId
    destination: ModelName
    """The model on Replicate that becomes a version richer. It must exist."""
    trainer: ModelRef | None = None
    """Who trains: ``owner/name:version``. Needed where we start the training."""
    input: Annotated[dict[str, JsonValue], AfterValidator(_storable)] = {}
    """What Replicate gives the trainer. It is not kept."""
    trigger_word: TriggerWord = ""
    """The word in a prompt that calls up what was learned."""
    total_steps: Steps | None = None
    """For progress. Taken from the input where that says it."""
    start: Flag = True
    """False: you start the training yourself, with the `webhook_url` of the answer."""


class RegisterTraining(_Body):
    """A training that runs already."""

    model_config = _example({"user_id": _USER, "destination": _DESTINATION, "trigger_word": "TOK"})

    user_id: UserId
    destination: ModelName
    trainer: ModelRef | None = None
    trigger_word: TriggerWord = ""
    total_steps: Steps | None = None


class RollBack(_Body):
    """A user's model is to be an earlier one again."""

    model_config = _example({"reason": "faces are too dark", "to": _EARLIER_MODEL})

    to: ModelRef | None = None
    """``owner/name:version``, one of the user's own; null: the newest one before that no operator has taken back."""
    reason: Annotated[str, Field(min_length=1, max_length=1000), PRINTABLE]
    """Why. It is kept in the history."""
    actor: FromToken = None
    dry_run: Flag = False
    """True: nothing is changed, the answer says what would be."""


class Withdraw(_Body):
    """A user's model is to be taken away: the user has none afterwards."""

    model_config = _example({"reason": "trained on the photos of somebody else"})

    reason: Annotated[str, Field(min_length=1, max_length=1000), PRINTABLE]
    """Why. It is kept in the history."""
    dry_run: Flag = False
    """True: nothing is changed, the answer says what would be."""


class NeverStarted(_Body):
    """Replicate was never asked for a training."""

    reason: Annotated[str, Field(min_length=1, max_length=1000), PRINTABLE]


class FailureView(_View):
    """Why a training has no usable model."""

    code: str
    reason: str


class TrainingView(_View):
    """A training, as it is known now."""

    ref: UUID
    """Our id of it."""
    training_id: str | None
    """Replicate's id of it; null until that is known."""
    user_id: str
    generation: int
    """
    Drawn when the training was requested; it never changes. A model that proves good becomes current if this is higher
    than the generation of the user's current model, or of the withdrawal since which there is none.
    """
    activated_generation: int | None
    """
    The generation of the swap that last made its model the user's current one, as in `GET /v1/users/{user_id}/model`
    and in `model.activated`; null if there was none. It equals `generation` until somebody rolls back to this model: a
    rollback draws a new generation.
    """
    stage: Stage
    current: bool
    """Is its model the one that the user uses now?"""
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    progress: int
    """
    0..100, and it never falls, unless the log itself shows that it was misread. 100 is said when the model can be
    used, and not before.
    """
    progress_source: ProgressSource | None
    """Read from the log, or guessed from the time; null where neither is needed."""
    step: int | None
    total_steps: int | None
    eta_seconds: int | None
    """How long it still runs; null where nothing tells."""
    eta_low_seconds: int | None
    """Eight times of ten it still runs for longer than this, and for less than the high one."""
    eta_high_seconds: int | None
    """Null beside a low one: it takes longer than was to be expected."""
    overdue_at: datetime | None
    """When it should surely have ended; null where too few trainings of its trainer are known, or it has."""
    reference: ModelRef | None
    """Its model, once that is proven."""
    failure: FailureView | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    webhook_url: str | None = None
    """Where Replicate is to post what happens; only where you start the training yourself."""


class ModelView(_View):
    """The model that a user uses now. None of it is ever null."""

    model_config = _example(
        {
            "user_id": _USER,
            "reference": _MODEL,
            "owner": _DESTINATION.partition("/")[0],
            "name": _DESTINATION.partition("/")[2],
            "version": _MODEL.partition(":")[2],
            "generation": 7,
            **_TRAINING,
            "trigger_word": "TOK",
            "activated_at": "2026-11-24T12:20:00Z",
        }
    )

    user_id: str
    reference: ModelRef
    """``owner/name:version``, ready to be run."""
    owner: str
    name: str
    version: str
    generation: int
    """
    The generation of the swap that made it current: the training's own, or the one that a rollback drew. It rises with
    every change of the user's model, and is the ETag. The training shows it as `activated_generation`.
    """
    training_id: str
    ref: UUID
    trigger_word: str
    activated_at: datetime
    dry_run: bool = False
    """True where nothing was changed, and this is only what would be; else not there."""


class OutputView(_View):
    """What came out of a training, and what it was taken for."""

    ref: UUID
    training_id: str
    user_id: str
    stage: Stage
    destination: ModelName
    trainer: ModelRef | None
    trainer_version: str | None
    reference: ModelRef | None
    """Its model, if one was proven."""
    output: JsonValue
    """As Replicate sent it."""


class SwapView(_View):
    """One change of a user's model."""

    model_config = _example(
        {
            "generation": 8,
            "reference": _EARLIER_MODEL,
            "previous_reference": _MODEL,
            **_TRAINING,
            "trigger_word": "TOK",
            "cause": "rollback",
            "actor": "olga",
            "reason": "faces are too dark",
            "at": "2026-11-24T15:00:00Z",
        }
    )

    generation: int
    """Of this change. After a rollback it differs from the `generation` that the training drew at its request."""
    reference: ModelRef | None
    """Null: a withdrawal, since which the user has none. `training_id` and `ref` are then of the model before."""
    previous_reference: ModelRef | None
    training_id: str
    ref: UUID
    trigger_word: str
    cause: Cause
    actor: str
    reason: str
    at: datetime


class WithdrawalView(SwapView):
    """A user's model was taken away: the line of the history that says so."""

    dry_run: bool = False
    """True where nothing was changed, and this is only what would be; else not there."""


def training_view(record: TrainingRecord, *, webhook_url: str | None = None) -> TrainingView:
    shown = record.shown
    failure = record.failure
    view = TrainingView(
        ref=record.ref,
        training_id=record.training_id,
        user_id=record.user_id,
        generation=record.generation,
        activated_generation=record.activated_generation,
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


def withdrawal_view(record: HistoryRecord) -> WithdrawalView:
    return WithdrawalView.model_validate(swap_view(record).model_dump())


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
