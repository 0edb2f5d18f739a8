"""
What a replay does next. Pure.

Dead letters go in steps, such as 1, then 5 %, then the rest; a step begins when all of the last have their outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from services.ops.letters.views import LetterStatus
from shared.contract.topology import (
    DELIVERIES_QUEUE,
    EXTRACTOR_QUEUE,
    OPS_QUEUE,
    PROGRESS_QUEUE,
    RECEIVER,
    STATE_QUEUE,
)

#: Queues whose dead letters can be replayed.
REPLAYABLE: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, OPS_QUEUE, DELIVERIES_QUEUE, RECEIVER)
#: Within a step, fewer outcomes than this are too few to judge by a share.
_ENOUGH_OUTCOMES: Final = 10
REST: Final = "rest"

#: How many dead letters a step has: a number, a share such as ``5%``, or `REST`.
Step: TypeAlias = int | str


class Status(StrEnum):
    """How far a replay is."""

    PREVIEWING = "previewing"  #: A dry run that is being made.
    PREVIEWED = "previewed"  #: A dry run that can be looked at, and started.
    RUNNING = "running"
    PAUSED = "paused"  #: By an operator.
    STOPPED = "stopped"  #: By itself: too many failed.
    DONE = "done"
    CANCELED = "canceled"


#: It sends nothing, so what it did can be undone.
UNDOABLE: Final = (Status.DONE, Status.CANCELED, Status.STOPPED, Status.PAUSED)


class Outcome(StrEnum):
    """The outcome of a dead letter in a replay."""

    PLANNED = "planned"  #: In a dry run that was not started.
    WAITING = "waiting"  #: To be sent.
    SENT = "sent"  #: The broker has it; its outcome is not known yet.
    SWAPPED = "swapped"  #: Its user's current model is another now.
    SUPERSEDED = "superseded"  #: Its model works, but a newer one was live already.
    MOVED = "moved"  #: Its training is at another stage now; the user's model is as it was.
    NOTHING = "nothing"  #: It changed nothing: its effect was there before.
    DELIVERED = "delivered"  #: A webhook endpoint accepted it, or its event was handed to the endpoints.
    FAILED = "failed"
    CANCELED = "canceled"  #: Not sent.
    SKIPPED = "skipped"  #: It could not be part of this replay.


#: Not final.
OPEN: Final = (Outcome.PLANNED, Outcome.WAITING, Outcome.SENT)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many dead letters of a replay are at each point."""

    waiting: int = 0
    sent: int = 0
    failed: int = 0
    #: Those that have their final outcome, the failed among them.
    ended: int = 0

    @classmethod
    def of(cls, outcomes: Mapping[Outcome, int]) -> Counts:
        """Count dead letters that have each outcome; skipped ones are no part of the replay."""
        return cls(
            waiting=outcomes.get(Outcome.WAITING, 0),
            sent=outcomes.get(Outcome.SENT, 0),
            failed=outcomes.get(Outcome.FAILED, 0),
            ended=sum(count for outcome, count in outcomes.items() if outcome not in (*OPEN, Outcome.SKIPPED)),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """How a replay goes."""

    #: After how many dead letters each step ends.
    steps: Sequence[int]
    #: It stops when more than this share of the outcomes are failures.
    stop_share: float
    #: Outcomes and failures up to the last resume, which do not count.
    forgiven_ended: int = 0
    forgiven_failed: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """Send *count* dead letters now."""

    count: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the outcomes of sent dead letters."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop: too many failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every dead letter has its outcome."""


Decision: TypeAlias = Send | Wait | Stop | Done


def decide(rules: Rules, counts: Counts) -> Decision:
    """Return what a running replay does next."""
    if not counts.waiting and not counts.sent:
        return Done()
    end = next((step for step in rules.steps if step > counts.ended), rules.steps[-1])
    reason = _too_many_failed(rules, counts)
    if reason is not None and counts.waiting:
        return Stop(reason)
    # Ended and underway dead letters have been sent.
    left = end - counts.ended - counts.sent
    return Send(min(left, counts.waiting)) if left > 0 and counts.waiting else Wait()


def _too_many_failed(rules: Rules, counts: Counts) -> str | None:
    ended, failed = counts.ended - rules.forgiven_ended, counts.failed - rules.forgiven_failed
    at_the_end_of_a_step = counts.ended in rules.steps
    if failed <= rules.stop_share * ended or not (at_the_end_of_a_step or ended >= _ENOUGH_OUTCOMES):
        return None
    return f"{failed} of {ended} failed, which is more than {rules.stop_share * 100:g}%"


def step_ends(steps: Sequence[Step], total: int) -> list[int]:
    """Return after how many of *total* dead letters each of *steps* ends; the last one takes all that are left."""
    ends: list[int] = []
    for size in (*(_size(step, total) for step in steps), total):
        before = ends[-1] if ends else 0
        if before < total:
            ends.append(min(total, before + size))
    return ends


def _size(step: Step, total: int) -> int:
    if step == REST:
        return total
    if isinstance(step, str) and step.endswith("%"):
        return math.ceil(total * float(step.removesuffix("%")) / 100)
    return int(step)


def why_not_replayable(queue: str) -> str | None:
    """Return why dead letters of *queue* cannot be replayed, or None."""
    if queue == PROGRESS_QUEUE:
        return "progress reports may be lost: a newer one has replaced this one, so drop it"
    if queue not in REPLAYABLE:
        return f"no service consumes {queue}"
    return None


def why_not_open(status: str, replay_id: UUID | None) -> str | None:
    """Return why a dead letter of this status cannot be replayed now, or None if it can."""
    if status == LetterStatus.OPEN:
        return None
    return f"it is in replay {replay_id}" if status == LetterStatus.REPLAYING else f"it is {status}"


@dataclass(frozen=True, slots=True)
class SetModel:
    """A model that a replay made a user's current one."""

    generation: int
    model: str
    previous: str | None


def model_before(models: Sequence[SetModel]) -> str | None:
    """
    Return the model a user had before a replay set *models*, the newest of them first; None: there was none.

    If another model came in between, that one is returned: the replay has replaced it.
    """
    previous = models[0].previous
    for earlier in models[1:]:
        if earlier.model != previous:
            break
        previous = earlier.previous
    return previous
