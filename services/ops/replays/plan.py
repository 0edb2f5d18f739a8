"""
What is the next thing to do in a replay, and what does an answer mean for a letter? Pure.

Letters go in steps, such as 1, then 5 %, then the rest; a step begins when all of the one before have their outcome.
How a letter's outcome comes:

    state says it       `ReplaySettled`: swapped, superseded, moved, or nothing
    a dead letter       it failed again, at the same queue or at one further on
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from shared.contract.envelope import Envelope
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Effect,
    ExtractionFailed,
    ExtractionRequested,
    ReplaySettled,
    TrainingSucceeded,
)
from shared.contract.preview import Refusal
from shared.contract.topology import EXTRACTOR_QUEUE, OPS_QUEUE, PROGRESS_QUEUE, RECEIVER, STATE_QUEUE

#: Where a letter can go back to.
REPLAYABLE: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, OPS_QUEUE, RECEIVER)
#: Of fewer outcomes than this, in the middle of a step, a share says nothing.
_ENOUGH_OUTCOMES: Final = 10
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)%", re.ASCII)
REST: Final = "rest"
#: The training's stage while its model is being looked for.
_VERIFYING: Final = "verifying"

#: How many letters a step has: a number, a share such as ``5%``, or `REST`.
Step: TypeAlias = int | str


class Status(StrEnum):
    """How far a replay is."""

    PREVIEWING = "previewing"  #: A dry run that is being made.
    PREVIEWED = "previewed"  #: A dry run that can be looked at, and started.
    RUNNING = "running"
    PAUSED = "paused"  #: By somebody.
    STOPPED = "stopped"  #: By itself: too many failed.
    DONE = "done"
    CANCELED = "canceled"


class Outcome(StrEnum):
    """What became of a letter in a replay."""

    PLANNED = "planned"  #: In a dry run that was not started.
    WAITING = "waiting"  #: It will go.
    SENT = "sent"  #: The broker has it; what comes of it is not known yet.
    SWAPPED = "swapped"  #: Its user's current model is another now.
    SUPERSEDED = "superseded"  #: Its model works, but a newer one was live already.
    MOVED = "moved"  #: Its training is at another stage now; the user's model is as it was.
    NOTHING = "nothing"  #: All that it says had come to pass before.
    FAILED = "failed"
    CANCELED = "canceled"  #: It did not go.
    SKIPPED = "skipped"  #: It could not be part of this replay.


#: What stands as soon as state has said it.
EFFECTS: Final = tuple(Outcome(effect.value) for effect in Effect)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a replay's letters are where."""

    waiting: int = 0
    sent: int = 0
    failed: int = 0
    #: All that have an outcome, the failed among them.
    ended: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """How a replay goes."""

    #: After how many letters each step ends.
    steps: Sequence[int]
    #: It stops when more than this share of the outcomes are failures.
    stop_share: float
    #: What somebody said to go on in spite of.
    forgiven_ended: int = 0
    forgiven_failed: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """So many may go now."""

    count: int


@dataclass(frozen=True, slots=True)
class Wait:
    """For the outcomes of those that went."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Too many failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """All have their outcome."""


Decision: TypeAlias = Send | Wait | Stop | Done


def decide(rules: Rules, counts: Counts) -> Decision:
    """What a running replay does next."""
    if not counts.waiting and not counts.sent:
        return Done()
    end = next((step for step in rules.steps if step > counts.ended), rules.steps[-1])
    reason = _too_many_failed(rules, counts)
    if reason is not None and counts.waiting:
        return Stop(reason)
    # Those that ended, and those underway, are the ones that went.
    left = end - counts.ended - counts.sent
    return Send(min(left, counts.waiting)) if left > 0 and counts.waiting else Wait()


def _too_many_failed(rules: Rules, counts: Counts) -> str | None:
    ended, failed = counts.ended - rules.forgiven_ended, counts.failed - rules.forgiven_failed
    at_the_end_of_a_step = counts.ended in rules.steps
    if failed <= rules.stop_share * ended or not (at_the_end_of_a_step or ended >= _ENOUGH_OUTCOMES):
        return None
    return f"{failed} of {ended} failed, which is more than {rules.stop_share:.0%}"


def bounds(steps: Sequence[Step], total: int) -> list[int]:
    """
    After how many of *total* letters each of *steps* ends; the last one always takes all that are left.

    Raises:
        ValueError: if a step is none, or would be empty.

    """
    ends: list[int] = []
    for step in steps:
        before = ends[-1] if ends else 0
        size = _size(step, total)
        if size < 1:
            raise ValueError(f"a step of {step!r} has no letters")
        if before < total:
            ends.append(min(total, before + size))
    return [*ends, *([total] if not ends or ends[-1] < total else [])]


def _size(step: Step, total: int) -> int:
    match step:
        case bool():
            pass
        case int():
            return step
        case "rest":
            return max(total, 1)
        case str():
            percent = _PERCENT.fullmatch(step)
            if percent:
                return math.ceil(total * float(percent[1]) / 100) if float(percent[1]) > 0 else 0
            if step.isdecimal():
                return int(step)
    raise ValueError(f"{step!r} is no step: a number, a share such as 5%, or {REST}")


def why_not(queue: str) -> str | None:
    """Why letters of *queue* can not be replayed, or None."""
    if queue == PROGRESS_QUEUE:
        return "reports of progress are lossy: a newer one has made it worthless, drop it"
    if queue not in REPLAYABLE:
        return f"nobody of ours consumes {queue}"
    return None


def is_end(queue: str, event_type: str | None, settled: ReplaySettled) -> bool:
    """Is what state says the outcome of a letter of *queue*, or only a step on the way to it?"""
    match settled.event:
        case ExtractionFailed.key if settled.error == DESTINATION_UNKNOWN:
            # Now that state has said it, it is looked for again; unless there was nothing to look for.
            return settled.stage != _VERIFYING
        case ExtractionFailed.key:
            # Of another letter than itself the dead letter that follows tells.
            return event_type is not None and event_type.endswith(ExtractionFailed.key)
        case TrainingSucceeded.key:
            # From the receiver it goes to the extractor as well, and that is where its model comes from.
            return queue == STATE_QUEUE
    return True


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would become of a letter now."""

    outcome: Outcome
    detail: str
    user_id: str | None = None
    stage: str | None = None
    generation: int | None = None
    model: str | None = None
    previous: str | None = None


def asks_extractor(envelope: Envelope) -> bool:
    """Is it the extractor that makes something of this event, when it comes by its own routing key?"""
    return isinstance(envelope.event, TrainingSucceeded | ExtractionRequested)


def predicted(event: ReplaySettled) -> Prediction:
    """What state would say of a letter."""
    return Prediction(
        Outcome(event.effect.value),
        in_words(event),
        event.user_id,
        event.stage,
        event.generation,
        None if event.model is None else str(event.model),
        None if event.previous is None else str(event.previous),
    )


def refused(refusal: Refusal, *, error_code: str) -> Prediction:
    """It would fail: as before, or in another way."""
    same = refusal.code == error_code
    begin = "still fails" if same else "fails otherwise"
    later = "; tried again for a while, it may still work" if refusal.is_transient else ""
    return Prediction(Outcome.FAILED, f"{begin}: {refusal.code}: {refusal.text}{later}")


def in_words(event: ReplaySettled) -> str:
    """What *event* says."""
    match event.effect:
        case Effect.SWAPPED:
            return f"user {event.user_id}: {in_models(event.previous)} → {in_models(event.model)}"
        case Effect.SUPERSEDED if event.model is None:
            return f"superseded: the model of user {event.user_id} was withdrawn after this training was requested"
        case Effect.SUPERSEDED:
            return f"superseded: user {event.user_id} uses a newer one, {in_models(event.model)}"
        case Effect.MOVED:
            return f"the training is {event.stage} now; user {event.user_id} keeps {in_models(event.model)}"
        case Effect.NOTHING:
            return f"the training was {event.stage} already; user {event.user_id} keeps {in_models(event.model)}"


def in_models(model: object) -> str:
    """Say *model*, or that there is none."""
    return "no model" if model is None else str(model)


@dataclass(frozen=True, slots=True)
class SetModel:
    """A model that a replay made a user's current one."""

    generation: int
    model: str
    previous: str | None


def before(models: Sequence[SetModel]) -> str | None:
    """
    What a user used before a replay set *models*, the newest of them first; None: nothing.

    Where another model came in between, that one: the replay has replaced it.
    """
    previous = models[0].previous
    for earlier in models[1:]:
        if earlier.model != previous:
            break
        previous = earlier.previous
    return previous
