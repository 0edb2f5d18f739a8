"""
Decides the next step for each overdue training, from the data of state and Replicate. Pure.

    Replicate's list shows it       ended: `Report`. Runs: `Wait`, or `Report` if state does not know yet that it runs
    it does not                     `Fetch` this one, at most three times, with growing pauses. A 404 does not end it: a
                                    wrong token is answered with 404, too
    its id is not known             the answer to ``POST /v1/trainings`` was lost. The list shows a training with the
                                    webhook address that we signed for it: `Report`. One that may be it: `Identify`.
                                    None, in several checks: `NeverStarted`
    it is being verified for long   longer than all retries take, so the event was lost: `RetryExtraction`
    any of these for days           `GiveUp`, after at least three checks, so that no outage of ours ends trainings

The longer a training is overdue, the longer the pause before its next check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from services.ops.reconcile.listing import Listing
from services.ops.reconcile.trainings import Limits, Memory, Stage, Unfinished, Watched
from shared.contract.identity import TrainingId
from shared.replicate.training import Training, TrainingStatus

MOST_GETS: Final = 3
#: Empty lookups before a training counts as absent.
_ENOUGH_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Report:
    """Publish the status that Replicate shows."""

    training: Unfinished
    found: Training


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask Replicate for this one, by its id."""

    training: Unfinished
    training_id: TrainingId


@dataclass(frozen=True, slots=True)
class Wait:
    """Check again later."""

    training: Unfinished
    is_absent: bool = False


@dataclass(frozen=True, slots=True)
class RetryExtraction:
    """Retry its extraction."""

    training: Unfinished


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop waiting: it ends as failed."""

    training: Unfinished
    training_id: TrainingId
    reason: str


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """It ends as failed, because it was never started."""

    training: Unfinished
    reason: str


@dataclass(frozen=True, slots=True)
class Identify:
    """If state knows all of *candidates* but one, that one is the training."""

    training: Unfinished
    candidates: tuple[Training, ...]
    #: If state knows all of them.
    otherwise: Wait | NeverStarted


Step: TypeAlias = Report | Fetch | Identify | Wait | RetryExtraction | GiveUp | NeverStarted


def plan(
    watched: Sequence[Watched],
    listing: Listing,
    *,
    now: datetime,
    limits: Limits,
    others: Iterable[Unfinished] = (),
) -> list[Step]:
    """
    Return the next step for each of *watched*, which are due; the longest overdue first.

    *others* have not ended and are not due, but may be what the list shows.
    """
    in_order = sorted(watched, key=lambda each: limits.due_at(each.training))
    trainings = [*(each.training for each in in_order), *others]
    candidates = {each.ref: listing.may_be(each) for each in trainings if each.training_id is None}
    # A candidate of two trainings is ignored: a wrong guess would give a user another user's model.
    claimants = Counter(found.id for several in candidates.values() for found in several)
    sole = {ref: [found for found in several if claimants[found.id] == 1] for ref, several in candidates.items()}
    return [_step(each, listing, sole, now, limits) for each in in_order]


def _step(
    watched: Watched, listing: Listing, sole: Mapping[UUID, list[Training]], now: datetime, limits: Limits
) -> Step:
    training = watched.training
    if training.stage is Stage.VERIFYING:
        return _step_of_verifying(watched, now, limits)
    found = listing.find(training)
    if found is not None:
        return _step_of_found(watched, found, now, limits)
    is_absent = listing.reaches(training)
    if training.training_id is not None:
        return _step_of_missing(watched, training.training_id, now, limits, is_absent=is_absent)
    otherwise = _step_without_id(watched, now, limits, is_absent=is_absent)
    # A list that was not read that far back may have another candidate.
    if is_absent and (candidates := sole[training.ref]):
        return Identify(training, tuple(candidates), otherwise)
    return otherwise


def _step_of_verifying(watched: Watched, now: datetime, limits: Limits) -> Step:
    training = watched.training
    # Without an id it cannot be given up. State may have an output to extract.
    if training.training_id is not None and _is_hopeless(watched, now, limits):
        why = f"its model has not been verified since {training.updated_at:%F %R} UTC"
        return _give_up(training, training.training_id, now, why)
    return RetryExtraction(training)


def _step_of_found(watched: Watched, found: Training, now: datetime, limits: Limits) -> Step:
    training = watched.training
    if found.has_ended:
        # The list may leave out the output.
        is_poor = found.status == TrainingStatus.SUCCEEDED and found.output is None
        return (
            Fetch(training, found.id)
            if is_poor and _may_fetch(watched.memory, now, limits)
            else Report(training, found)
        )
    if _is_hopeless(watched, now, limits):
        return _give_up(training, found.id, now, f"Replicate still says {found.status!r}")
    return Report(training, found) if training.stage is Stage.REQUESTED else Wait(training)


def _step_of_missing(
    watched: Watched, training_id: TrainingId, now: datetime, limits: Limits, *, is_absent: bool
) -> Step:
    if _may_fetch(watched.memory, now, limits):
        return Fetch(watched.training, training_id)
    if _is_hopeless(watched, now, limits):
        return _give_up(watched.training, training_id, now, "Replicate does not show it")
    return Wait(watched.training, is_absent)


def _step_without_id(watched: Watched, now: datetime, limits: Limits, *, is_absent: bool) -> Wait | NeverStarted:
    training, looks = watched.training, watched.memory.absences + 1
    is_late = now >= limits.due_at(training) + 2 * limits.after
    # In a later stage, a webhook has shown that it runs.
    if training.stage is Stage.REQUESTED and is_absent and is_late and looks >= _ENOUGH_LOOKS:
        return NeverStarted(training, f"it was never started: Replicate does not list it, after {looks} looks")
    if _is_hopeless(watched, now, limits):
        age = _in_words(now - training.requested_at)
        return NeverStarted(training, f"no webhook came within {age}")
    return Wait(training, is_absent)


def _give_up(training: Unfinished, training_id: TrainingId, now: datetime, what: str) -> GiveUp:
    age = _in_words(now - training.requested_at)
    return GiveUp(training, training_id, f"given up after {age} without an end: {what}")


def _may_fetch(memory: Memory, now: datetime, limits: Limits) -> bool:
    if memory.asked_at is None or memory.gets == 0:
        return True
    return memory.gets < MOST_GETS and now >= memory.asked_at + limits.after * 2 ** (memory.gets - 1)


def _is_hopeless(watched: Watched, now: datetime, limits: Limits) -> bool:
    return watched.memory.looks >= _ENOUGH_LOOKS and now >= watched.training.requested_at + limits.give_up_after


def _in_words(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"  # noqa: PLR2004 (two days)
