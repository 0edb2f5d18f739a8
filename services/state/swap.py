"""
Which model does each user use after these events? Pure: rows as they are locked, and events, to rows as they shall be.

The fence: every training draws its user's next generation when it is requested. A ready model becomes current if its
generation is greater than the current one's, and never otherwise. So the newest *requested* training that proves good
wins, whatever arrives when; an older one that ends while a newer one still runs is used until then. A withdrawal takes
the current model away and leaves its own generation as the fence.

What Replicate said is kept whatever the stage; where it is said twice, the first stands.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from pydantic import JsonValue

from services.state.transitions import Fact, Stage, accepts_model, next_stage
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import PermanentError, TransientError
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Cause,
    Effect,
    Event,
    Evidence,
    ExtractionFailed,
    ExtractionRequested,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ReplaySettled,
    TrainingCanceled,
    TrainingEvent,
    TrainingFailed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.text import clean, is_storable
from shared.replicate.version import REGISTERED_WITHIN

SOURCE: Final = "state"

#: A longer output is left out of a request to look again: a message is at most 1 MiB, and Replicate is asked first.
_OUTPUT_LIMIT: Final = 512 * 1024

#: What an operator can do about a model that was only looked up.
_BY_HAND: Final = (
    "If you know that it is this training's, set evidence.looked_up to false in the letter "
    "(modelswap dead-letters edit), which replays it"
)

#: What a replay came to that has brought a training to this stage.
_EFFECTS: Final = {Stage.ACTIVE: Effect.SWAPPED, Stage.SUPERSEDED: Effect.SUPERSEDED}

#: One for each delivery: applied (or without effect, which is as good), or how it alone failed.
Result = Exception | None


class UnknownTraining(TransientError):  # noqa: N818 (it is what was seen, and reads as one)
    """Nobody registered this training, yet."""

    code = "unknown_training"
    # A registration is a matter of seconds; the fifth attempt comes after a quarter of an hour.
    max_attempts = 5


class UnconfirmedRef(UnknownTraining):
    """Nobody registered this training, and only the address that was called says which one it is."""

    code = "ref_unconfirmed"


class DestinationMismatch(PermanentError):  # noqa: N818 (likewise)
    """A model is ready that does not lie where its training was to put it. It may be another user's."""

    code = "destination_mismatch"


class MadeByAnother(PermanentError):  # noqa: N818 (likewise)
    """A model is ready that was only looked up, and it is what another training made."""

    code = "model_of_another_training"


class DestinationShared(PermanentError):  # noqa: N818 (likewise)
    """A model is ready that was only looked up, where several users' trainings lie. Nothing tells whose it is."""

    code = "destination_shared"


class MayBeAnothers(PermanentError):  # noqa: N818 (likewise)
    """A model is ready that was only looked up, and another training can have made it as well."""

    code = "model_may_be_anothers"


class Failure(NamedTuple):
    """Why a training has no usable model."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Training:
    """What of a training decides."""

    ref: UUID
    training_id: str | None
    user_id: str
    generation: int
    destination: ModelName
    trigger_word: str
    stage: Stage
    #: JSON, as Replicate sent it; only where a model is to be looked for again.
    output: str | None = None
    trainer_version: str | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CurrentModel:
    """The model that a user uses now."""

    generation: int
    ref: UUID
    model: ModelRef


@dataclass(frozen=True, slots=True)
class Rival:
    """A training that may have made a version, and of which no model is known."""

    ref: UUID
    destination: ModelName
    started_at: datetime | None
    completed_at: datetime | None

    def may_have_made(self, made_at: datetime) -> bool:
        """Can it have made a version that was registered at *made_at*? A time that is not known leaves it open."""
        is_later = self.started_at is not None and self.started_at > made_at
        is_earlier = self.completed_at is not None and self.completed_at + REGISTERED_WITHIN < made_at
        return not is_later and not is_earlier


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows that a batch is about, as they are while their users are locked."""

    trainings: Iterable[Training]
    #: By user.
    models: Mapping[str, CurrentModel]
    #: By user without a model: the generation of the withdrawal that took the last one away.
    withdrawn: Mapping[str, int] = field(default_factory=dict)
    deleted_users: Collection[str] = ()
    #: Ids of events that were applied before.
    applied: Collection[str] = ()
    #: Which training made which model, of those that were looked up.
    made: Collection[tuple[ModelRef, UUID]] = ()
    #: Where trainings of several users lie, of the models that were looked up.
    shared: Collection[ModelName] = ()
    #: The trainings without a model of the locked users, where models were looked up.
    rivals: Collection[Rival] = ()
    #: Which of the rivals are registered that Replicate's list showed.
    registered: Collection[str] = ()


@dataclass(slots=True)
class TrainingChange:
    """What becomes of a training's row, filled in while a batch is folded. None: as it was."""

    ref: UUID
    training_id: str | None = None
    stage: Stage | None = None
    model: ModelRef | None = None
    failure: Failure | None = None
    output: str | None = None
    trainer: ModelRef | None = None
    trainer_version: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """A line of the history: this model became the user's current one."""

    user_id: str
    generation: int
    ref: UUID
    model: ModelRef
    trigger_word: str
    previous: ModelRef | None
    cause: Cause = Cause.TRAINING
    reason: str = ""
    actor: str = "modelswap"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A line of the history: the user's current model was taken away, and the user has none."""

    user_id: str
    generation: int
    #: Of the training whose model it was.
    ref: UUID
    previous: ModelRef
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event that follows, and whose generation it tells of."""

    envelope: Envelope
    user_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written, and what each delivery came to."""

    results: Sequence[Result]
    applied: Sequence[str]
    trainings: Sequence[TrainingChange]
    swaps: Sequence[Swap]
    outbox: Sequence[Outgoing]
    withdrawals: Sequence[Withdrawal] = ()

    @property
    def lines(self) -> Sequence[Swap | Withdrawal]:
        """What is added to the history."""
        return [*self.swaps, *self.withdrawals]

    @property
    def current(self) -> Collection[Swap]:
        """The last swap of each user."""
        return {swap.user_id: swap for swap in self.swaps}.values()


def fold(envelopes: Sequence[Envelope], snapshot: Snapshot, *, now: datetime) -> Changes:
    """Apply *envelopes* in order to *snapshot*, and say what that changes."""
    batch = _Batch(snapshot, now)
    results = [batch.take(envelope) for envelope in envelopes]
    return Changes(results, batch.fresh, tuple(batch.changes.values()), batch.swaps, batch.outbox)


@dataclass(slots=True)
class _Batch:
    """The rows while events are applied to them, and what became of them so far."""

    snapshot: Snapshot
    now: datetime
    changes: dict[UUID, TrainingChange] = field(default_factory=dict)
    swaps: list[Swap] = field(default_factory=list)
    outbox: list[Outgoing] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    _trainings: dict[UUID, Training] = field(init=False)
    #: Our id of a training by Replicate's.
    _refs: dict[str, UUID] = field(init=False)
    _models: dict[str, CurrentModel] = field(init=False)
    _made: set[tuple[ModelRef, UUID]] = field(init=False)

    def __post_init__(self) -> None:
        self._trainings = {training.ref: training for training in self.snapshot.trainings}
        self._refs = {t.training_id: t.ref for t in self._trainings.values() if t.training_id is not None}
        self._models = dict(self.snapshot.models)
        self._made = set(self.snapshot.made)

    def take(self, envelope: Envelope) -> Result:
        mark = inbox_id(envelope)
        if mark in self.snapshot.applied or mark in self.fresh:
            return None
        training = self._find(envelope.event) or self._attach(envelope.event)
        if training is None:
            return _unknown(envelope.event)
        stage = self._stage(training)
        failed = None if training.user_id in self.snapshot.deleted_users else self._apply(training, envelope)
        if failed is None:
            self.fresh.append(mark)
            if envelope.replay is not None:
                self._settle(training, stage, envelope, envelope.replay)
        return failed

    def _find(self, event: Event) -> Training | None:
        """The training by Replicate's id."""
        ref = self._refs.get(event.training_id)
        return self._trainings[ref] if ref else None

    def _attach(self, event: Event) -> Training | None:
        """The training by our own id, where Replicate's is not known yet: from now on it is."""
        ref = claimed_ref(event)
        named = self._trainings.get(ref) if ref else None
        if named is None or named.training_id is not None or self._change(named.ref).training_id is not None:
            return None
        self._refs[event.training_id] = named.ref
        self._change(named.ref).training_id = event.training_id
        self._move(named, Fact.APPEARED)
        return named

    def _apply(self, training: Training, envelope: Envelope) -> Result:
        match envelope.event:
            case TrainingStarted() as event:
                self._keep(training, started_at=event.started_at or envelope.time)
                self._move(training, Fact.STARTED)
            case TrainingSucceeded() as event:
                self._keep(
                    training,
                    output=None if event.output is None else json.dumps(event.output),
                    trainer=ModelRef.parse(f"{event.trainer}:{event.trainer_version}"),
                    trainer_version=event.trainer_version,
                    started_at=event.started_at,
                    completed_at=event.completed_at or envelope.time,
                )
                self._move(training, Fact.SUCCEEDED)
            case TrainingFailed() as event:
                self._keep(training, completed_at=event.completed_at or envelope.time)
                self._move(training, Fact.FAILED, failure=Failure("training_failed", clean(event.reason)))
            case TrainingCanceled() as event:
                self._keep(training, completed_at=event.completed_at or envelope.time)
                self._move(training, Fact.CANCELED, failure=Failure("training_canceled", clean(event.reason)))
            case ExtractionFailed() as event if lacks_destination(event):
                self._complete(training, envelope)
            case ExtractionFailed() as event:
                # Of an older try, perhaps, while a newer one is underway: what that finds has the last word.
                self._move(training, Fact.NOT_VERIFIED, failure=Failure(clean(event.error, 100), clean(event.detail)))
            case ModelReady() as event:
                return self._ready(training, event, envelope)
            case event:
                return PermanentError(f"nothing is to be done here about {event.key}", code="unexpected_event")
        return None

    def _complete(self, training: Training, cause: Envelope) -> None:
        """Have the model looked for with the one thing that was missing."""
        self._move(training, Fact.SUCCEEDED)
        if next_stage(self._stage(training), Fact.ASKED_AGAIN) is None:
            return
        self._move(training, Fact.ASKED_AGAIN)
        # Once for each event: told twice, it is the same request.
        request_id = uuid5(training.ref, inbox_id(cause))
        said = self._change(training.ref)
        known = replace(
            training,
            output=training.output or said.output,
            trainer_version=training.trainer_version or said.trainer_version,
            started_at=training.started_at or said.started_at,
        )
        event = requested_extraction(known, cause.event.training_id, request_id)
        self._publish(event, cause, training.user_id, training.generation)

    def _ready(self, training: Training, ready: ModelReady, cause: Envelope) -> Result:
        model = ready.model
        if not accepts_model(self._stage(training)):
            return None
        if model.model != training.destination:
            reason = f"{model} does not lie at the training's destination {training.destination}"
            self._move(training, Fact.NOT_VERIFIED, failure=Failure(DestinationMismatch.code, reason))
            return DestinationMismatch(reason)
        if ready.evidence.looked_up:
            doubt = self._doubt(training, model, ready.evidence)
            if doubt is not None:
                self._move(training, Fact.NOT_VERIFIED, failure=Failure(doubt.code, str(doubt)))
                return doubt
        self._made.add((model, training.ref))
        current = self._models.get(training.user_id)
        fence = current.generation if current else self.snapshot.withdrawn.get(training.user_id, 0)
        if training.generation > fence:
            self._swap(training, model, current, cause)
        else:
            self._supersede(training, model, fence, cause)
        return None

    def _doubt(self, training: Training, model: ModelRef, evidence: Evidence) -> PermanentError | None:
        """Why *model*, which this training's output does not name, may not be what it made."""
        if training.destination in self.snapshot.shared:
            # Theirs may be made, and even be listed, before anybody hears of it.
            return DestinationShared(
                f"the output names no version, and trainings of several users lie at {training.destination}: "
                f"nothing tells whose {model} is. {_BY_HAND}"
            )
        if any(made == model and ref != training.ref for made, ref in self._made):
            return MadeByAnother(f"{model} is what another training made, and this one's output does not name it")
        if strangers := set(evidence.rivals or ()).difference(self.snapshot.registered):
            return MayBeAnothers(
                f"the output does not name {model}, and training {min(strangers)}, which is not registered here, can "
                f"have made it. {_BY_HAND}"
            )
        if evidence.made_at is not None and (rival := self._rival(training, evidence.made_at)):
            return MayBeAnothers(
                f"the output does not name {model}, and training {rival.ref} can have made it as well. When that one "
                f"has its model, look again: POST /v1/trainings/{training.training_id or training.ref}/retry-extraction"
            )
        return None

    def _rival(self, training: Training, made_at: datetime) -> Rival | None:
        at_destination = (each for each in self.snapshot.rivals if each.destination == training.destination)
        return next((each for each in at_destination if each.ref != training.ref and each.may_have_made(made_at)), None)

    def _swap(self, training: Training, model: ModelRef, current: CurrentModel | None, cause: Envelope) -> None:
        if current is not None:
            # The current model's training may be none of this batch's, but active it is.
            self._change(current.ref).stage = next_stage(Stage.ACTIVE, Fact.DISPLACED)
        self._move(training, Fact.WON, model=model)
        previous = current.model if current else None
        swap = Swap(
            training.user_id,
            training.generation,
            training.ref,
            model,
            training.trigger_word,
            previous,
            cause=Cause.TRAINING if cause.replay is None else Cause.REPLAY,
            reason="" if cause.replay is None else f"replay {cause.replay}",
        )
        self._models[training.user_id] = CurrentModel(training.generation, training.ref, model)
        self.swaps.append(swap)
        self._publish(
            ModelActivated(
                training_id=cause.event.training_id,
                user_id=swap.user_id,
                generation=swap.generation,
                ref=swap.ref,
                model=model,
                previous=previous,
                trigger_word=swap.trigger_word,
                cause=swap.cause,
            ),
            cause,
            swap.user_id,
            swap.generation,
        )

    def _supersede(self, training: Training, model: ModelRef, fence: int, cause: Envelope) -> None:
        self._move(training, Fact.LOST, model=model)
        self._publish(
            ModelSuperseded(
                training_id=cause.event.training_id,
                user_id=training.user_id,
                generation=training.generation,
                ref=training.ref,
                model=model,
                current_generation=fence,
            ),
            cause,
            training.user_id,
            training.generation,
        )

    def _settle(self, training: Training, before: Stage, cause: Envelope, replay: str) -> None:
        """Tell operators what the replayed letter came to."""
        stage, current = self._stage(training), self._models.get(training.user_id)
        effect = Effect.NOTHING if stage == before else _EFFECTS.get(stage, Effect.MOVED)
        self._publish(
            ReplaySettled(
                training_id=cause.event.training_id,
                replay=replay,
                settled_by=cause.id,
                event=cause.event.key,
                error=cause.event.error if isinstance(cause.event, ExtractionFailed) else None,
                effect=effect,
                user_id=training.user_id,
                stage=stage,
                generation=current.generation if current else None,
                model=current.model if current else None,
                previous=self.swaps[-1].previous if effect == Effect.SWAPPED else None,
            ),
            cause,
            training.user_id,
            training.generation,
        )

    def _publish(self, event: Event, cause: Envelope, user_id: str, generation: int) -> None:
        envelope = wrap(event, source=SOURCE, now=self.now, cause=cause)
        self.outbox.append(Outgoing(envelope, user_id, generation))

    def _move(
        self, training: Training, fact: Fact, *, failure: Failure | None = None, model: ModelRef | None = None
    ) -> None:
        """Let *fact* move the training; *failure* and *model* are written only if it does."""
        stage = next_stage(self._stage(training), fact)
        if stage is not None:
            change = self._change(training.ref)
            change.stage, change.failure, change.model = stage, failure, model

    def _keep(
        self,
        training: Training,
        *,
        output: str | None = None,
        trainer: ModelRef | None = None,
        trainer_version: str | None = None,
        started_at: datetime | None = None,
        completed_at: datetime | None = None,
    ) -> None:
        """Remember what Replicate said, unless it said so before."""
        change = self._change(training.ref)
        change.output = change.output or output
        change.trainer = change.trainer or trainer
        change.trainer_version = change.trainer_version or trainer_version
        change.started_at = change.started_at or _utc(started_at)
        change.completed_at = change.completed_at or _utc(completed_at)

    def _stage(self, training: Training) -> Stage:
        change = self.changes.get(training.ref)
        return training.stage if change is None or change.stage is None else change.stage

    def _change(self, ref: UUID) -> TrainingChange:
        return self.changes.setdefault(ref, TrainingChange(ref))


def looked_up_model(event: Event) -> ModelRef | None:
    """The model that is ready, where only Replicate's list said which version it is."""
    return event.model if isinstance(event, ModelReady) and event.evidence.looked_up else None


def rivals_of(event: Event) -> Sequence[str]:
    """Other trainings that can have made the model that is ready, by all that Replicate says of them."""
    return (event.evidence.rivals or ()) if isinstance(event, ModelReady) else ()


def lacks_destination(event: Event) -> bool:
    """Did the first look fail only because the webhook's address did not say where the model belongs?"""
    return isinstance(event, ExtractionFailed) and event.error == DESTINATION_UNKNOWN and event.request_id is None


def requested_extraction(training: Training, training_id: str, request_id: UUID) -> ExtractionRequested:
    """The request to look for the model of *training* again, with its stored output where that can be sent."""
    return ExtractionRequested(
        training_id=training_id,
        request_id=request_id,
        ref=training.ref,
        destination=training.destination,
        output=_sendable(training.output),
        trainer_version=training.trainer_version,
        started_at=training.started_at,
    )


def _sendable(output: str | None) -> JsonValue:
    """A stored output; None where it is too long or no JSON that can travel, because then Replicate must have it."""
    if output is None or len(output) > _OUTPUT_LIMIT:
        return None
    try:
        value: JsonValue = json.loads(output)
        return value if is_storable(value) else None
    except (ValueError, RecursionError):
        return None


def inbox_id(envelope: Envelope) -> str:
    """
    Under which id an event is remembered as applied.

    An operator's replay is remembered apart from the first time, so that it is never taken for a duplicate; the same
    replay handed over twice is.
    """
    return envelope.id if envelope.replay is None else f"{envelope.id} {envelope.replay}"


def _unknown(event: Event) -> UnknownTraining:
    if claimed_ref(event) is None and isinstance(event, TrainingEvent) and event.called_ref is not None:
        return UnconfirmedRef(
            f"training {event.training_id} is not registered. It was posted to the address of training "
            f"{event.called_ref}, which neither its body nor Replicate's API confirms. If you know whose it is, "
            f"register it (PUT /v1/trainings/{event.training_id}), then replay"
        )
    return UnknownTraining(f"training {event.training_id} is not registered")


def claimed_ref(event: Event) -> UUID | None:
    """Our own id of the training, where Replicate itself confirmed it."""
    match event:
        case TrainingEvent(ref=ref) | ModelReady(ref=ref) | ExtractionFailed(ref=ref):
            return ref
    return None


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
