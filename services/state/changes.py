"""Rows that a decision reads (`Loaded`) and rows it writes (`Changes`). Pure data; `swap` and `rollback` decide."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self
from uuid import UUID

from services.state.transitions import Stage
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import (
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    TrainingCanceled,
    TrainingEvent,
    TrainingFailed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.values import Cause, SwapCause
from shared.replicate.version import REGISTERED_WITHIN

SOURCE: Final = "state"

#: The fields of an event that its training's timeline shows, by class. None of them is large.
_SHOWN: Final[Mapping[type[Event], Mapping[str, bool | set[str]]]] = {
    TrainingFailed: {"reason": True, "recovered": True},
    TrainingCanceled: {"reason": True, "recovered": True},
    ModelReady: {"model": True, "evidence": {"shape", "looked_up", "made_at", "checks", "seconds", "retries"}},
    ExtractionFailed: {"error": True, "detail": True, "request_id": True},
}

#: Result of one delivery: None if it was applied or changed nothing, else the error it alone failed with.
Result = Exception | None


class Failure(NamedTuple):
    """Why a training has no usable model."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Training:
    """Columns of a training that decisions depend on."""

    ref: UUID
    training_id: str | None
    user_id: str
    generation: int
    destination: ModelName
    trigger_word: str
    stage: Stage
    #: JSON as Replicate sent it; loaded only for another extraction.
    output: str | None = None
    trainer_version: str | None = None
    started_at: datetime | None = None
    #: When its end was reported.
    reported_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CurrentModel:
    """A user's current model."""

    generation: int
    ref: UUID
    model: ModelRef


@dataclass(frozen=True, slots=True)
class Rival:
    """A training without a known model that may have made a version."""

    ref: UUID
    destination: ModelName
    started_at: datetime | None
    completed_at: datetime | None

    def may_have_made(self, made_at: datetime) -> bool:
        """Return whether it can have made a version registered at *made_at*. An unknown time counts as yes."""
        is_later = self.started_at is not None and self.started_at > made_at
        is_earlier = self.completed_at is not None and self.completed_at + REGISTERED_WITHIN < made_at
        return not is_later and not is_earlier


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a batch, all of the same moment."""

    trainings: Iterable[Training]
    #: Current model by user.
    models: Mapping[str, CurrentModel]
    #: Generation of the withdrawal, by user whose model was withdrawn.
    withdrawn: Mapping[str, int] = field(default_factory=dict)
    deleted_users: Collection[str] = ()
    #: Inbox ids of events that were applied before.
    applied: Collection[str] = ()
    #: Which training made which model, for the models of the batch that were looked up.
    made: Collection[tuple[ModelRef, UUID]] = ()
    #: Destinations of looked-up models that several users train to.
    shared: Collection[ModelName] = ()
    #: Trainings of these users without a model, at the destinations of looked-up models.
    rivals: Collection[Rival] = ()
    #: Ids of rivals in Replicate's list that are registered here.
    registered: Collection[str] = ()
    #: Version of each user's row. Every change of the user's trainings or models changes it, as `store.write` says.
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class TrainingChange:
    """Changes to a training's row. None leaves a column as it is."""

    ref: UUID
    #: Only of a training whose id was not known.
    training_id: str | None = None
    stage: Stage | None = None
    model: ModelRef | None = None
    failure: Failure | None = None
    output: str | None = None
    trainer: ModelRef | None = None
    trainer_version: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    reported_at: datetime | None = None
    #: Whether its end was found by polling Replicate; None for an end that no webhook would have reported.
    webhook_missed: bool | None = None

    def keep_facts(self, event: TrainingEvent, time: datetime) -> None:
        """Keep Replicate's facts in *event*, which is of *time*. The first report of each fact is kept."""
        facts: dict[str, object] = {}
        match event:
            case TrainingStarted():
                facts = {"started_at": event.started_at or time}
            case TrainingSucceeded():
                facts = {
                    "output": None if event.output is None else json.dumps(event.output),
                    "trainer": ModelRef.parse(f"{event.trainer}:{event.trainer_version}"),
                    "trainer_version": event.trainer_version,
                    "started_at": event.started_at,
                    "completed_at": event.completed_at or time,
                    "reported_at": time,
                    "webhook_missed": _missed(event),
                }
            case TrainingFailed() | TrainingCanceled():
                facts = {
                    "completed_at": event.completed_at or time,
                    "reported_at": time,
                    "webhook_missed": _missed(event),
                }
        for name, value in facts.items():
            if getattr(self, name) is None:
                setattr(self, name, _utc(value) if isinstance(value, datetime) else value)


@dataclass(frozen=True, slots=True)
class Swap:
    """A history row: *model* became the user's current model."""

    user_id: str
    generation: int
    ref: UUID
    model: ModelRef
    trigger_word: str
    previous: ModelRef | None
    cause: SwapCause = Cause.TRAINING
    reason: str = ""
    actor: str = "modelswap"
    #: When the end of its training was reported; None if that is unknown, or of no interest after a rollback.
    reported_at: datetime | None = None

    def activated(self, training_id: str) -> ModelActivated:
        """Return the public event of this swap."""
        return ModelActivated(
            training_id=training_id,
            user_id=self.user_id,
            generation=self.generation,
            ref=self.ref,
            model=self.model,
            previous=self.previous,
            trigger_word=self.trigger_word,
            cause=self.cause,
        )


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A history row: the user's current model *previous*, made by training *ref*, was taken away."""

    user_id: str
    generation: int
    ref: UUID
    previous: ModelRef
    reason: str
    actor: str
    # Columns of a `Swap` that a withdrawal fills with constants.
    model: None = field(default=None, init=False)
    trigger_word: str = field(default="", init=False)
    cause: Cause = field(default=Cause.WITHDRAWAL, init=False)


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event to publish after commit, and the user and generation it is about."""

    envelope: Envelope
    user_id: str
    generation: int

    @classmethod
    def of(cls, event: Event, user_id: str, generation: int, *, now: datetime) -> OutboxEvent:
        """Wrap an event that no other event caused."""
        return cls(wrap(event, source=SOURCE, now=now), user_id, generation)


class Applied(NamedTuple):
    """A row of the inbox: an applied event, and what it did."""

    user_id: str
    ref: UUID
    routing_key: str
    occurred_at: datetime
    #: The stage it moved the training to, if any.
    stage: Stage | None
    #: JSON.
    detail: str | None

    @classmethod
    def of(cls, envelope: Envelope, training: Training, stage: Stage | None) -> Self:
        """Return the row of *envelope*, which moved *training* to *stage*."""
        event = envelope.event
        detail = None
        if (shown := _SHOWN.get(type(event))) is not None:
            detail = event.model_dump_json(include=shown, exclude_defaults=True)
        elif isinstance(event, TrainingEvent) and event.recovered:
            detail = '{"recovered":true}'
        if envelope.retries is not None:
            detail = json.dumps({**json.loads(detail or "{}"), "retries": envelope.retries.model_dump(mode="json")})
        return cls(training.user_id, training.ref, event.key, envelope.time, stage, detail)


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows to write, and one result for each delivery."""

    results: Sequence[Result] = ()
    #: The user that each delivery is about, or None.
    users: Sequence[str | None] = ()
    #: Applied events by their inbox id.
    applied: Mapping[str, Applied] = field(default_factory=dict)
    trainings: Sequence[TrainingChange] = ()
    swaps: Sequence[Swap] = ()
    outbox: Sequence[OutboxEvent] = ()
    withdrawals: Sequence[Withdrawal] = ()

    @property
    def lines(self) -> Sequence[Swap | Withdrawal]:
        """New rows of the history."""
        return [*self.swaps, *self.withdrawals]

    @property
    def current(self) -> Collection[Swap]:
        """The last swap of each user."""
        return {swap.user_id: swap for swap in self.swaps}.values()


def _missed(event: TrainingSucceeded | TrainingFailed | TrainingCanceled) -> bool | None:
    # Without a time, it is no end that Replicate knows: the training was given up.
    return None if event.recovered and event.completed_at is None else event.recovered


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
