"""
Decides which model each user uses after a batch of events. Pure: rows and events to rows to write.

The fence: a training draws its user's next generation when it is requested. A ready model becomes current only if its
generation is greater than the current one's. So the newest *requested* training with a verified model wins, in any
order of events; an older one that ends while a newer one still runs is used until then. A withdrawal takes the
current model away and leaves its own generation as the fence.

Replicate's facts are kept in every stage; if it reports a fact twice, the first report is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from services.state.changes import (
    SOURCE,
    Applied,
    Changes,
    CurrentModel,
    Failure,
    Loaded,
    OutboxEvent,
    Result,
    Swap,
    Training,
    TrainingChange,
)
from services.state.extraction import lacks_destination, requested_extraction
from services.state.ownership import doubt, mismatch
from services.state.transitions import Fact, Stage, accepts_model, next_stage
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import ModelswapError, PermanentError, TransientError
from shared.contract.events import (
    Event,
    ExtractionFailed,
    ModelReady,
    ModelSuperseded,
    ReplaySettled,
    TrainingCanceled,
    TrainingEvent,
    TrainingFailed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelRef
from shared.contract.text import clean
from shared.contract.topology import STATE_QUEUE
from shared.contract.values import Cause, Effect

#: Effect of a replay, by the stage it moved a training to. Any other move is `Effect.MOVED`.
_EFFECTS: Final = {Stage.ACTIVE: Effect.SWAPPED, Stage.SUPERSEDED: Effect.SUPERSEDED}


class UnknownTraining(TransientError):
    """The training is not registered yet."""

    code = "unknown_training"
    # A registration takes seconds; the fifth attempt comes after a quarter of an hour.
    max_attempts = 5


class UnconfirmedRef(UnknownTraining):
    """The training is not registered, and only the called address names a ref; Replicate has not confirmed it."""

    code = "ref_unconfirmed"


def fold(envelopes: Sequence[Envelope], loaded: Loaded, *, now: datetime) -> Changes:
    """Apply *envelopes* in order to *loaded*; return the changes and one result for each envelope."""
    batch = _Batch(loaded, now)
    results = [batch.apply(envelope) for envelope in envelopes]
    users = [training.user_id if (training := batch.find(each.event)) else None for each in envelopes]
    return Changes(results, users, batch.applied, tuple(batch.changes.values()), batch.swaps, batch.outbox)


@dataclass(slots=True)
class _Batch:
    """Mutable state of one `fold`: rows as changed so far, and the changes."""

    loaded: Loaded
    now: datetime
    changes: dict[UUID, TrainingChange] = field(default_factory=dict)
    swaps: list[Swap] = field(default_factory=list)
    outbox: list[OutboxEvent] = field(default_factory=list)
    applied: dict[str, Applied] = field(default_factory=dict)
    _trainings: dict[UUID, Training] = field(init=False)
    #: Our ref by Replicate's training id.
    _refs: dict[str, UUID] = field(init=False)
    _models: dict[str, CurrentModel] = field(init=False)
    _made: set[tuple[ModelRef, UUID]] = field(init=False)

    def __post_init__(self) -> None:
        self._trainings = {training.ref: training for training in self.loaded.trainings}
        self._refs = {t.training_id: t.ref for t in self._trainings.values() if t.training_id is not None}
        self._models = dict(self.loaded.models)
        self._made = set(self.loaded.made)

    def apply(self, envelope: Envelope) -> Result:
        """Apply one event, unless it was applied before."""
        key = inbox_id(envelope)
        if key in self.loaded.applied or key in self.applied:
            return None
        training = self.find(envelope.event) or self._attach(envelope.event)
        if training is None:
            return _unknown(envelope.event)
        stage = self._stage(training)
        failed = None if training.user_id in self.loaded.deleted_users else self._apply_to(training, envelope)
        if failed is None:
            moved = self._stage(training)
            self.applied[key] = Applied.of(envelope, training, None if moved == stage else moved)
            if envelope.replay is not None:
                self._settle(training, stage, envelope, envelope.replay)
        return failed

    def find(self, event: Event) -> Training | None:
        """Return the training with Replicate's id of *event*."""
        ref = self._refs.get(event.training_id)
        return self._trainings[ref] if ref else None

    def _attach(self, event: Event) -> Training | None:
        """Return the training with the confirmed ref of *event*, and set its training id, if it has none yet."""
        ref = claimed_ref(event)
        named = self._trainings.get(ref) if ref else None
        if named is None or named.ref in self._refs.values():
            return None
        self._refs[event.training_id] = named.ref
        if named.user_id not in self.loaded.deleted_users:
            self._change(named.ref).training_id = event.training_id
            self._move(named, Fact.APPEARED)
        return named

    def _apply_to(self, training: Training, envelope: Envelope) -> Result:
        event = envelope.event
        if isinstance(event, TrainingEvent):
            self._change(training.ref).keep_facts(event, envelope.time)
        match event:
            case TrainingStarted():
                self._move(training, Fact.STARTED)
            case TrainingSucceeded():
                self._move(training, Fact.SUCCEEDED)
            case TrainingFailed():
                self._move(training, Fact.FAILED, failure=Failure("training_failed", clean(event.reason)))
            case TrainingCanceled():
                self._move(training, Fact.CANCELED, failure=Failure("training_canceled", clean(event.reason)))
            case ExtractionFailed() if lacks_destination(event):
                self._extract_again(training, envelope)
            case ExtractionFailed():
                # May be of an older extraction while a newer one runs: that one's result replaces it.
                self._move(training, Fact.NOT_VERIFIED, failure=Failure(clean(event.error, 100), clean(event.detail)))
            case ModelReady():
                return self._ready(training, event, envelope)
            case _:
                return PermanentError(f"{event.key} is not handled here", code="unexpected_event")
        return None

    def _extract_again(self, training: Training, cause: Envelope) -> None:
        """Request the extraction again with the stored destination, which the first one lacked."""
        self._move(training, Fact.SUCCEEDED)
        if next_stage(self._stage(training), Fact.EXTRACTION_RETRIED) is None:
            return
        self._move(training, Fact.EXTRACTION_RETRIED)
        # Derived from the event, so that a redelivery makes the same request.
        request_id = uuid5(training.ref, inbox_id(cause))
        change = self._change(training.ref)
        known = replace(
            training,
            output=training.output or change.output,
            trainer_version=training.trainer_version or change.trainer_version,
            started_at=training.started_at or change.started_at,
        )
        event = requested_extraction(known, cause.event.training_id, request_id)
        self._publish(event, cause, training)

    def _ready(self, training: Training, ready: ModelReady, cause: Envelope) -> Result:
        model = ready.model
        if not accepts_model(self._stage(training)):
            return None
        refused: ModelswapError | None = mismatch(training, model)
        if refused is None and ready.evidence.looked_up:
            refused = doubt(training, model, ready.evidence, self.loaded, self._made)
        if refused is not None:
            self._move(training, Fact.NOT_VERIFIED, failure=Failure(refused.code, str(refused)))
            return refused
        self._made.add((model, training.ref))
        current = self._models.get(training.user_id)
        fence = current.generation if current else self.loaded.withdrawn.get(training.user_id, 0)
        if training.generation > fence:
            self._swap(training, model, current, cause)
        else:
            self._supersede(training, model, fence, cause)
        return None

    def _swap(self, training: Training, model: ModelRef, current: CurrentModel | None, cause: Envelope) -> None:
        if current is not None:
            # The current model's training is active, even if it is not in this batch.
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
            reported_at=training.reported_at or self._change(training.ref).reported_at,
        )
        self._models[training.user_id] = CurrentModel(training.generation, training.ref, model)
        self.swaps.append(swap)
        self._publish(swap.activated(cause.event.training_id), cause, training)

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
            training,
        )

    def _settle(self, training: Training, before: Stage, cause: Envelope, replay: str) -> None:
        """Publish the outcome of a replayed dead letter."""
        stage, current = self._stage(training), self._models.get(training.user_id)
        effect = Effect.NOTHING if stage == before else _EFFECTS.get(stage, Effect.MOVED)
        self._publish(
            ReplaySettled(
                training_id=cause.event.training_id,
                replay=replay,
                queue=STATE_QUEUE,
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
            training,
        )

    def _publish(self, event: Event, cause: Envelope, training: Training) -> None:
        envelope = wrap(event, source=SOURCE, now=self.now, cause=cause)
        self.outbox.append(OutboxEvent(envelope, training.user_id, training.generation))

    def _move(
        self, training: Training, fact: Fact, *, failure: Failure | None = None, model: ModelRef | None = None
    ) -> None:
        """Move the training by *fact*; write *failure* and *model* only if its stage changes."""
        stage = next_stage(self._stage(training), fact)
        if stage is not None:
            change = self._change(training.ref)
            change.stage, change.failure, change.model = stage, failure, model

    def _stage(self, training: Training) -> Stage:
        change = self.changes.get(training.ref)
        return training.stage if change is None or change.stage is None else change.stage

    def _change(self, ref: UUID) -> TrainingChange:
        return self.changes.setdefault(ref, TrainingChange(ref))


def inbox_id(envelope: Envelope) -> str:
    """Return the id of an applied event. A replay has one of its own, so that it is not a duplicate of the original."""
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
    """Return our ref of the training if Replicate confirmed it."""
    match event:
        case TrainingEvent(ref=ref) | ModelReady(ref=ref) | ExtractionFailed(ref=ref):
            return ref
    return None
