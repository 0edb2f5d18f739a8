"""
Events: immutable facts in the past tense. Pure.

Each class is one event; its docstring is its public description, `key` its routing key and `exchange` its exchange.
A new optional field keeps the version; a removed or changed one makes a ``.v2`` beside ``.v1``. No event carries raw
log text or a URL to fetch.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.contract.identity import ModelName, ModelRef, TrainingId, UserId, event_id
from shared.contract.values import Cause, Effect, Evidence, Output, ProgressSource, Reason, SwapCause

#: Internal events: reported by Replicate or requested by operators.
TRAINING_EXCHANGE: Final = "modelswap.training"
#: Public events: what other services subscribe to.
EVENTS_EXCHANGE: Final = "modelswap.events"

#: Error of an extraction that lacks only the destination. State knows it and requests the extraction again.
DESTINATION_UNKNOWN: Final = "destination_unknown"


class Event(BaseModel):
    """One immutable fact. Unknown fields are ignored, so that an older consumer accepts a newer producer's events."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        ser_json_inf_nan="null",
        allow_inf_nan=False,
        # A field's docstring is its description in the contract's documents.
        use_attribute_docstrings=True,
    )

    key: ClassVar[str]
    exchange: ClassVar[str] = TRAINING_EXCHANGE

    training_id: TrainingId
    """Replicate's id of the training."""

    def fact(self) -> tuple[object, ...]:
        """Return the values that, with key and training id, identify this fact: equal facts have equal ids."""
        return ()

    @property
    def id(self) -> str:
        """A UUID, derived from the fact, so that the same fact published twice has the same id."""
        return event_id("\x1f".join(map(str, (self.key, self.training_id, *self.fact()))))

    @property
    def subject(self) -> str:
        """The subject of the event: the user whose model changed, else the training."""
        return self.training_id


class TrainingEvent(Event):
    """Base of the events that Replicate reports of a training."""

    ref: UUID | None = None
    """Our own id of the training, confirmed by Replicate: in the signed body or in an API response."""
    called_ref: UUID | None = None
    """
    Our own id of a training, from the called URL only. Replicate does not sign the URL, so this is unconfirmed:
    use it only as a reason to look the training up at Replicate.
    """
    recovered: bool = False
    """Found by polling Replicate, because the webhook never arrived."""


class TrainingStarted(TrainingEvent):
    """Replicate started the training, or queued it."""

    key = "training.started.v1"
    started_at: datetime | None = None


class TrainingProgressed(TrainingEvent):
    """The training's progress, parsed from its log. Lossy: a newer event replaces an older one."""

    key = "training.progressed.v1"
    step: int | None = Field(default=None, ge=0, le=2**31 - 1)
    total: int | None = Field(default=None, gt=0, le=2**31 - 1)
    fraction: float | None = Field(default=None, ge=0, le=1)
    """0..1; null if the training runs but its log shows no progress."""
    source: ProgressSource = ProgressSource.LOG

    def fact(self) -> tuple[object, ...]:
        return (self.step, self.total, self.fraction)


class TrainingSucceeded(TrainingEvent):
    """Replicate finished the training without an error. Its model is not verified yet."""

    key = "training.succeeded.v1"
    destination: ModelName | None = None
    """The training's destination, if Replicate's own data repeats the webhook URL that states it."""
    user_id: UserId | None = None
    """The user, if the same URL states it. Only for the events that follow; state uses the stored one."""
    output: Output = None
    """The output as received, of any shape."""
    output_omitted_bytes: int | None = None
    """Size of the output; set instead of *output* when that is too large for an event."""
    trainer: str | None = None
    """The trainer (``owner/name``) and its version, never those of the resulting model."""
    trainer_version: str | None = None
    error: Reason | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def fact(self) -> tuple[object, ...]:
        return (self.model_dump_json(include={"output", "output_omitted_bytes"}),)


class TrainingFailed(TrainingEvent):
    """The training failed at Replicate."""

    key = "training.failed.v1"
    reason: Reason
    completed_at: datetime | None = None


class TrainingCanceled(TrainingEvent):
    """The training was ended early: by its user (``canceled``), or by a deadline before it ran (``aborted``)."""

    key = "training.canceled.v1"
    reason: Reason
    completed_at: datetime | None = None


class ExtractionRequested(Event):
    """The extraction of a succeeded training's model was requested again."""

    key = "extraction.requested.v1"
    request_id: UUID
    """Unique per request."""
    ref: UUID
    destination: ModelName
    user_id: UserId | None = None
    output: Output = None
    """The stored output, used if Replicate has deleted it since."""
    trainer_version: str | None = None
    started_at: datetime | None = None

    def fact(self) -> tuple[object, ...]:
        return (self.request_id,)


class ModelReady(Event):
    """A training's model was found, belongs to the training's destination and passed verification."""

    key = "model.ready.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID | None = None
    """Our own id of the training; missing if the webhook did not prove it."""
    user_id: UserId | None = None
    """The product's own id of the user; missing if the webhook did not prove it."""
    model: ModelRef
    """The verified model. It is not in use yet."""
    evidence: Evidence

    def fact(self) -> tuple[object, ...]:
        return (self.model,)


class ExtractionFailed(Event):
    """
    A training succeeded, but no usable model came out of it. The user's current model is untouched.

    After ``destination_unknown`` the extraction is retried automatically, after any other error only on request.
    """

    key = "extraction.failed.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID | None = None
    """Our own id of the training; missing if the webhook did not prove it."""
    user_id: UserId | None = None
    """The product's own id of the user; missing if the webhook did not prove it."""
    request_id: UUID | None = None
    """The request to extract again that it answers; missing for a training's first extraction."""
    error: str
    """Stable error code: `short_version`, `destination_mismatch` … New codes may be added."""
    detail: Reason
    """The error for people."""

    def fact(self) -> tuple[object, ...]:
        # Each request is answered by an event of its own, even if the error is the same.
        return (self.error, self.detail, *((self.request_id,) if self.request_id else ()))


class UserEvent(Event):
    """Base of the events about a user's model."""

    user_id: UserId
    """The product's own id of the user."""
    generation: int = Field(gt=0)
    """Drawn by the training when it was requested, or by the rollback or withdrawal."""

    def fact(self) -> tuple[object, ...]:
        return (self.user_id, self.generation)

    @property
    def subject(self) -> str:
        return self.user_id


class ModelActivated(UserEvent):
    """A user's current model changed, committed. A user's generations only rise: a subscriber keeps the highest."""

    key = "model.activated.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID
    """Our own id of the training that made the model."""
    model: ModelRef
    """The user's model from now on."""
    previous: ModelRef | None = None
    """The user's model before; missing if there was none."""
    trigger_word: str = ""
    """The word for prompts that the training was registered with; empty if there is none."""
    cause: SwapCause = Cause.TRAINING
    """`training`: a training's model was verified; `rollback`: to an earlier model; `replay`: of a dead letter."""


class ModelWithdrawn(UserEvent):
    """
    An operator withdrew a user's model, and it is committed: stop using it; the user has none now.

    Its generation counts like any other of the user: a subscriber keeps the highest.
    """

    key = "model.withdrawn.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID
    """The training whose model was withdrawn."""
    previous: ModelRef
    """The withdrawn model."""


class ModelSuperseded(UserEvent):
    """A training's model was verified, but a newer one of that user is already current, or was withdrawn."""

    key = "model.superseded.v1"
    exchange = EVENTS_EXCHANGE
    ref: UUID
    """Our own id of the training that made the model."""
    model: ModelRef
    """The verified model, which the user does not get."""
    current_generation: int = Field(gt=0)
    """The generation that is current instead, or that of a withdrawal."""


class ReplaySettled(Event):
    """A replayed message was handled, with or without effect. One that fails becomes a dead letter instead."""

    key = "replay.settled.v1"
    replay: str
    """The replay mark of the message."""
    queue: str = ""
    """Where the message was handled."""
    settled_by: str
    """Id of the event whose handling settled the replay, and that event's routing key."""
    event: str = ""
    error: str | None = None
    """Error code of that event, if it reports a failure."""
    effect: Effect
    user_id: UserId | None = None
    """Null if it does not concern a user's model, such as the delivery of a webhook."""
    stage: str = ""
    """The training's stage after it."""
    generation: int | None = None
    """The user's current model after it, and its generation; null if there is none."""
    model: ModelRef | None = None
    previous: ModelRef | None = None
    """The model before, if the effect is a swap."""

    def fact(self) -> tuple[object, ...]:
        return (self.replay, self.settled_by)


class ModelReverted(UserEvent):
    """
    A user's model was rolled back or withdrawn. Internal, for the operators' audit.

    Subscribers get `ModelActivated` or `ModelWithdrawn`; actor and reason are for operators only.
    """

    key = "model.reverted.v1"
    model: ModelRef | None = None
    """Null if the model was withdrawn, so that the user has none."""
    previous: ModelRef | None = None
    """Null if the user had none, after a withdrawal."""
    actor: str
    reason: str


class DeliveryRequested(Event):
    """A public event is to be delivered to a webhook endpoint."""

    key = "delivery.requested.v1"
    delivery_id: UUID
    endpoint_id: UUID
    sending: int = Field(gt=0)
    """Rises when the delivery is sent again on request; earlier messages about it are then out of date."""

    def fact(self) -> tuple[object, ...]:
        return (self.delivery_id, self.sending)


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
        DeliveryRequested,
    )
}
#: The events that other services subscribe to.
PUBLIC_EVENTS: Final = tuple(event for event in EVENTS.values() if event.exchange == EVENTS_EXCHANGE)
