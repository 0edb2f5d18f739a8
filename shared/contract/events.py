"""
What can have happened. Pure: immutable facts in the past tense.

Each class is one event; its docstring is its public description. `ROUTES` says under which routing key and on which
exchange each travels. A new optional field keeps the version; a removed or changed one makes a ``.v2`` beside ``.v1``.
Raw log text never travels, and no event carries an address that anybody fetches.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Final
from uuid import UUID, uuid5

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_json

from shared.contract.identity import ModelName, ModelRef, TrainingId, UserId
from shared.contract.limits import OUTPUT_BYTES

#: Internal events: what Replicate reported, and what operators ask for.
TRAINING_EXCHANGE: Final = "modelswap.training"
#: Public events: what other services subscribe to.
EVENTS_EXCHANGE: Final = "modelswap.events"

_FACTS: Final = UUID("5b0f6d52-3c1e-5f0e-9a55-6d6f64737770")

Reason = Annotated[str, Field(max_length=4096)]


def _bounded(output: JsonValue) -> JsonValue:
    # Measured as it is written: what came as ``1e15`` goes on as ``1000000000000000.0``.
    if len(to_json(output)) > OUTPUT_BYTES:
        raise ValueError(f"takes more than {OUTPUT_BYTES} bytes")
    return output


#: What came out of a training, as it came. It goes on from event to event.
Output = Annotated[JsonValue, AfterValidator(_bounded)]

#: The error of an extraction that lacked only the training's destination. State knows that, and has it tried again.
DESTINATION_UNKNOWN: Final = "destination_unknown"


class Cause(StrEnum):
    """Why a user's model changed."""

    TRAINING = "training"  #: A training ended and its model proved good.
    ROLLBACK = "rollback"  #: Somebody went back to an earlier model.
    REPLAY = "replay"  #: An operator replayed a dead letter.
    WITHDRAWAL = "withdrawal"  #: An operator took the model away; the user has none. Only in the history.


class Effect(StrEnum):
    """What a replayed dead letter came to."""

    SWAPPED = "swapped"  #: The user's current model is another now.
    SUPERSEDED = "superseded"  #: Its model works, but a newer one was live already.
    MOVED = "moved"  #: The training is at another stage now; the user's model is as it was.
    NOTHING = "nothing"  #: All that it says had come to pass before.


class ProgressSource(StrEnum):
    """How progress is known."""

    LOG = "log"  #: Read from the training's own log.
    ESTIMATE = "estimate"  #: Guessed from the time that passed.


class Event(BaseModel):
    """One immutable fact. Unknown fields are ignored, so that an older consumer understands a newer producer."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", allow_inf_nan=False)

    key: ClassVar[str]
    exchange: ClassVar[str] = TRAINING_EXCHANGE

    training_id: TrainingId

    def fact(self) -> tuple[object, ...]:
        """What makes this fact this fact: two events with equal facts have the same id."""
        return ()

    @property
    def id(self) -> UUID:
        """Derived from the fact, so that the same fact published twice has the same id."""
        return uuid5(_FACTS, "\x1f".join(map(str, (self.key, self.training_id, *self.fact()))))

    @property
    def subject(self) -> str:
        """Whom the event is about: the user where the event knows one, else the training."""
        return self.training_id


class TrainingEvent(Event):
    """What Replicate reported of a training."""

    #: Our own id of the training, where Replicate itself says it: signed by it, or answered to us.
    ref: UUID | None = None
    #: Our own id of a training, where only the called address says it, which Replicate does not sign. It is not
    #: confirmed: a reason to ask Replicate about the training, and nothing else.
    called_ref: UUID | None = None
    #: Found by asking Replicate, because the webhook never came.
    recovered: bool = False


class TrainingStarted(TrainingEvent):
    """Replicate runs the training, or is about to."""

    key = "training.started.v1"
    started_at: datetime | None = None


class TrainingProgressed(TrainingEvent):
    """How far the training is, read from its log. Lossy: a newer one makes an older one worthless."""

    key = "training.progressed.v1"
    step: int | None = Field(default=None, ge=0, le=2**31 - 1)
    total: int | None = Field(default=None, gt=0, le=2**31 - 1)
    #: 0..1, or null when the training runs but its log does not say how far it is.
    fraction: float | None = Field(default=None, ge=0, le=1)
    source: ProgressSource = ProgressSource.LOG

    def fact(self) -> tuple[object, ...]:
        return (self.step, self.total, self.fraction)


class TrainingSucceeded(TrainingEvent):
    """Replicate finished the training without an error. Whether its model works is not known yet."""

    key = "training.succeeded.v1"
    #: Where the model belongs, where Replicate itself repeats the webhook address that says it.
    destination: ModelName | None = None
    #: As it came, whatever its shape.
    output: Output = None
    #: Set instead of *output* when that was too large to carry.
    output_omitted_bytes: int | None = None
    #: The trainer (``owner/name``) and its version: never the result.
    trainer: str | None = None
    trainer_version: str | None = None
    error: Reason | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def fact(self) -> tuple[object, ...]:
        return (self.model_dump_json(include={"output", "output_omitted_bytes"}),)


class TrainingFailed(TrainingEvent):
    """Replicate gave the training up."""

    key = "training.failed.v1"
    reason: Reason
    completed_at: datetime | None = None


class TrainingCanceled(TrainingEvent):
    """The training was ended early: by its user (``canceled``), or by a deadline before it ran (``aborted``)."""

    key = "training.canceled.v1"
    reason: Reason
    completed_at: datetime | None = None


class ExtractionRequested(Event):
    """Somebody asked to look for the model of a succeeded training again."""

    key = "extraction.requested.v1"
    #: Tells one request from the next.
    request_id: UUID
    ref: UUID
    destination: ModelName
    #: The output as it was received, in case Replicate has deleted it since.
    output: Output = None
    trainer_version: str | None = None
    started_at: datetime | None = None

    def fact(self) -> tuple[object, ...]:
        return (self.request_id,)


class Evidence(BaseModel):
    """Why a model is believed to work."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: Which shape of output named the model.
    shape: str
    #: Did only Replicate's list say which version it is, and the output not even how it begins?
    looked_up: bool = False
    #: When Replicate registered the version, where that told which one it is.
    made_at: datetime | None = None
    #: Other trainings that can have made it, by all that Replicate says of them. State knows where they lie.
    rivals: tuple[TrainingId, ...] | None = None
    #: Which checks it passed, in order.
    checks: tuple[str, ...]
    #: How long the checks took.
    seconds: float = Field(ge=0)


class ModelReady(Event):
    """A training's model was found, belongs to the training's destination and passed verification."""

    key = "model.ready.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID | None = None
    model: ModelRef
    evidence: Evidence

    def fact(self) -> tuple[object, ...]:
        return (self.model,)


class ExtractionFailed(Event):
    """
    A training succeeded, but no usable model came out of it. The user's current model is untouched.

    After ``destination_unknown`` it is looked for again by itself, after any other error when somebody asks.
    """

    key = "extraction.failed.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID | None = None
    #: Which request to look again it answers; null for the first look.
    request_id: UUID | None = None
    #: The class of the error: ``short_version``, ``destination_mismatch`` …
    error: str
    detail: Reason

    def fact(self) -> tuple[object, ...]:
        # To find the same nothing once more is news to whoever asked.
        return (self.error, self.detail, *((self.request_id,) if self.request_id else ()))


class ModelActivated(Event):
    """A user's current model changed, committed. Generations of a user only rise: a subscriber keeps the highest."""

    key = "model.activated.v1"
    exchange = EVENTS_EXCHANGE
    user_id: UserId
    #: Of the swap: what the training drew at its request, or what a rollback drew.
    generation: int = Field(gt=0)
    ref: UUID
    model: ModelRef
    previous: ModelRef | None = None
    trigger_word: str = ""
    cause: Cause = Cause.TRAINING

    def fact(self) -> tuple[object, ...]:
        return (self.user_id, self.generation)

    @property
    def subject(self) -> str:
        return self.user_id


class ModelWithdrawn(Event):
    """
    An operator took a user's model away, committed: stop using it, the user has none now.

    Its generation is one of the user's like any other: a subscriber keeps the highest.
    """

    key = "model.withdrawn.v1"
    exchange = EVENTS_EXCHANGE
    user_id: UserId
    generation: int = Field(gt=0)
    #: Of the training whose model it was.
    ref: UUID
    #: The model that was taken away.
    previous: ModelRef

    def fact(self) -> tuple[object, ...]:
        return (self.user_id, self.generation)

    @property
    def subject(self) -> str:
        return self.user_id


class ModelSuperseded(Event):
    """A training's model was verified, but a newer one of that user is live already, or was withdrawn."""

    key = "model.superseded.v1"
    exchange = EVENTS_EXCHANGE
    user_id: UserId
    #: What the training drew at its request.
    generation: int = Field(gt=0)
    ref: UUID
    model: ModelRef
    #: The generation that is live instead, or that of a withdrawal.
    current_generation: int = Field(gt=0)

    def fact(self) -> tuple[object, ...]:
        return (self.user_id, self.generation)

    @property
    def subject(self) -> str:
        return self.user_id


class ReplaySettled(Event):
    """A replayed message was handled by state: it had its effect, or had none. What fails is a dead letter instead."""

    key = "replay.settled.v1"
    #: The mark that the replayed message carried.
    replay: str
    #: The event whose handling settled it, and what kind of event that is.
    settled_by: str
    event: str = ""
    #: The error of that event, where it tells of a failure.
    error: str | None = None
    effect: Effect
    user_id: UserId
    #: The training's stage after it.
    stage: str
    #: The user's current model after it, and the generation of that; null while there is none.
    generation: int | None = None
    model: ModelRef | None = None
    #: The model before, where the effect is a swap of one.
    previous: ModelRef | None = None

    def fact(self) -> tuple[object, ...]:
        return (self.replay, self.settled_by)


class ModelReverted(Event):
    """
    Somebody took a user's model back. For the operators' audit.

    Subscribers hear of the change by `ModelActivated` or `ModelWithdrawn`; who did it and why stays with the operators.
    """

    key = "model.reverted.v1"
    user_id: UserId
    generation: int = Field(gt=0)
    #: Null: the model was withdrawn, and the user has none.
    model: ModelRef | None = None
    #: Null: the user had none, after a withdrawal.
    previous: ModelRef | None = None
    actor: str
    reason: str

    def fact(self) -> tuple[object, ...]:
        return (self.user_id, self.generation)

    @property
    def subject(self) -> str:
        return self.user_id


#: Every event by its routing key.
EVENTS: Final[dict[str, type[Event]]] = {
    event.key: event
    for event in (
        TrainingStarted,
        TrainingProgressed,
        TrainingSucceeded,
        TrainingFailed,
        TrainingCanceled,
        ExtractionRequested,
        ModelReady,
        ExtractionFailed,
        ModelActivated,
        ModelWithdrawn,
        ModelSuperseded,
        ReplaySettled,
        ModelReverted,
    )
}
