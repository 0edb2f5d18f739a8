"""
Outcomes of replayed dead letters: the handler of ops' own queue, and what the answers of other services mean. Pure.

A dead letter's outcome comes in one of three ways:

    state says it       `ReplaySettled`: swapped, superseded, moved, or nothing
    the notifier does   `ReplaySettled`: delivered, or nothing; only of dead letters of its own queues
    a dead letter       it failed again, at the same queue or at one further on

Rollbacks come through the same queue, for the audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.ops.letters.letter import ReplayMark
from services.ops.replays.plan import Outcome
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Event,
    ExtractionFailed,
    ExtractionRequested,
    ModelReverted,
    ReplaySettled,
    TrainingSucceeded,
)
from shared.contract.preview import Refusal
from shared.contract.text import clean
from shared.contract.topology import DELIVERIES_QUEUE, STATE_QUEUE
from shared.contract.values import Effect

#: The training's stage while its model is being looked for.
_VERIFYING: Final = "verifying"
#: One for each delivery: stored, or why it failed.
Result = tuple[()] | Exception


class Store(Protocol):
    """The store of replays."""

    async def settle(self, settled: Mapping[ReplayMark, Sequence[ReplaySettled]]) -> None: ...

    async def note_rollbacks(self, rollbacks: Sequence[ModelReverted]) -> None: ...


class Outcomes:
    """The queue `modelswap.ops`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """
        Store the outcomes and rollbacks in *envelopes*.

        Raises:
            DependencyDown: if Postgres is away.

        """
        results: list[Result] = []
        settled: dict[ReplayMark, list[ReplaySettled]] = {}
        rollbacks: list[ModelReverted] = []
        for envelope in envelopes:
            said = read(envelope)
            if isinstance(said, Exception):
                results.append(said)
                continue
            results.append(())
            if isinstance(envelope.event, ModelReverted):
                rollbacks.append(envelope.event)
            for mark, event in said.items():
                settled.setdefault(mark, []).append(event)
        if settled:
            await self._store.settle(settled)
        if rollbacks:
            await self._store.note_rollbacks(rollbacks)
        return results


def read(envelope: Envelope) -> Mapping[ReplayMark, ReplaySettled] | Malformed:
    """Return the outcomes that *envelope* states, or why it states none."""
    own = ReplayMark.parse(envelope.replay or "")
    match envelope.event:
        case ReplaySettled() as event:
            mark = ReplayMark.parse(event.replay)
            if mark is None:
                return Malformed(f"{event.replay[:100]!r} is no mark of a replay", code="unknown_mark")
            if own is None or own == mark:
                return {mark: event}
            return {mark: event, own: _outcome_at_ops(envelope.id, event, own, event.stage)}
        case ModelReverted() as event:
            stage = "active" if event.model else "replaced"
            return {} if own is None else {own: _outcome_at_ops(envelope.id, event, own, stage)}
        case Event() as event:
            return Malformed(f"ops does not handle {event.key}", code="unexpected_event")


def _outcome_at_ops(event_id: str, event: ReplaySettled | ModelReverted, own: ReplayMark, stage: str) -> ReplaySettled:
    """Return the outcome of a replayed message of ops' own queue: that ops has read it."""
    return ReplaySettled(
        training_id=event.training_id,
        replay=str(own),
        settled_by=event_id,
        event=event.key,
        effect=Effect.MOVED,
        user_id=event.user_id,
        stage=stage,
        generation=event.generation,
        model=event.model,
    )


def is_outcome(queue: str, event_type: str | None, settled: ReplaySettled) -> bool:
    """Return whether *settled* is the outcome of a dead letter of *queue*, not only a step on the way to it."""
    if DELIVERIES_QUEUE in (settled.queue, queue):
        # What follows from a replay is delivered to webhook endpoints, too.
        return settled.queue == queue
    match settled.event:
        case ExtractionFailed.key if settled.error == DESTINATION_UNKNOWN:
            # State requests the extraction again now, unless there is nothing to extract.
            return settled.stage != _VERIFYING
        case ExtractionFailed.key:
            # If the dead letter is an earlier event, its outcome is the dead letter that follows.
            return event_type == ExtractionFailed.key
        case TrainingSucceeded.key:
            # From the receiver it goes to the extractor as well, which finds the model.
            return queue == STATE_QUEUE
    return True


@dataclass(frozen=True, slots=True)
class LetterOutcome:
    """What replaying a dead letter did, or, in a dry run, would do."""

    outcome: Outcome
    detail: str
    user_id: str | None = None
    stage: str | None = None
    generation: int | None = None
    model: str | None = None
    previous: str | None = None


def goes_to_extractor(envelope: Envelope) -> bool:
    """Return whether the extractor consumes this event."""
    return isinstance(envelope.event, TrainingSucceeded | ExtractionRequested)


def outcome_of(event: ReplaySettled) -> LetterOutcome:
    """Return what state says that a dead letter did, or would do."""
    return LetterOutcome(
        Outcome(event.effect.value),
        clean(describe(event)),
        event.user_id,
        event.stage,
        event.generation,
        None if event.model is None else str(event.model),
        None if event.previous is None else str(event.previous),
    )


def refused(refusal: Refusal, *, error_code: str) -> LetterOutcome:
    """Return the prediction of a failure: as before, or another one."""
    same = refusal.code == error_code
    begin = "still fails" if same else "fails with another error"
    later = "; a retry may still succeed" if refusal.is_transient else ""
    return LetterOutcome(Outcome.FAILED, f"{begin}: {refusal.code}: {refusal.text}{later}")


def describe(event: ReplaySettled) -> str:
    match event.effect:
        case Effect.NOTHING if event.queue == DELIVERIES_QUEUE:
            said = "out of date: delivered before, sent again, or its endpoint is disabled or removed"
        case Effect.SWAPPED:
            said = f"user {event.user_id}: {model_name(event.previous)} → {model_name(event.model)}"
        case Effect.SUPERSEDED if event.model is None:
            said = f"superseded: the model of user {event.user_id} was withdrawn after this training was requested"
        case Effect.SUPERSEDED:
            said = f"superseded: user {event.user_id} uses a newer one, {model_name(event.model)}"
        case Effect.MOVED:
            said = f"the training is {event.stage} now; user {event.user_id} keeps {model_name(event.model)}"
        case Effect.DELIVERED:
            said = "delivered"
        case Effect.NOTHING:
            said = f"the training was {event.stage} already; user {event.user_id} keeps {model_name(event.model)}"
    return said


def model_name(model: object) -> str:
    return "no model" if model is None else str(model)
