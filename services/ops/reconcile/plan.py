"""
What is to be done about trainings that should have ended by now? Pure: what state and Replicate say, to the next steps.

    Replicate's list shows it       ended: `Tell`. Runs: `Wait`, or `Tell` where nobody knew that it runs
    it does not                     `Ask` for this one, three times at most and ever more rarely. A 404 is no end: it
                                    also is what a wrong token gets
    there is no id of it            the answer of ``POST /v1/trainings`` was lost, or it was never given. The list shows
                                    a training whose webhook address *we* signed for it: `Tell`. One that may be it:
                                    `Identify`. None, again and again: `NeverStarted`
    it is being verified for long   longer than all retries take, so the event got lost: `LookAgain`
    any of these for days           `GiveUp`, after at least three looks, so that no outage of ours ends trainings

A look comes the later, the longer a training is overdue, so that one that never ends does not cost for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.contract.errors import PermanentError, TransientError
from shared.contract.identity import ModelName, ModelRef, TrainingId, UserId
from shared.replicate.training import Training, TrainingStatus
from shared.replicate.webhook_url import Claim, claim_in

MOST_GETS: Final = 3
#: So often nothing must have been found before anybody says that there is nothing.
_ENOUGH_LOOKS: Final = 3
_LONGEST_DISTANCE: Final = timedelta(hours=6)
#: How far Replicate's clock may be from ours, and how long state may take to ask it.
_CLOCKS_OFF: Final = timedelta(minutes=1)
_START_TAKES: Final = timedelta(minutes=5)


class Stage(StrEnum):
    """The stages of a training, as state calls them, in which it may be overdue."""

    REQUESTED = "requested"
    RUNNING = "running"
    VERIFYING = "verifying"


class StateRefused(TransientError):  # noqa: N818 (it is what was seen, and reads as one)
    """State does not do what it was asked."""

    code = "state_refused"


class LookRefused(PermanentError):  # noqa: N818 (likewise)
    """State does not look for a training's model again, and says why."""

    code = "look_refused"


class Unfinished(BaseModel):
    """A training that has not come to an end, as state shows it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    ref: UUID
    training_id: TrainingId | None
    user_id: UserId
    stage: Stage
    destination: ModelName
    trainer: ModelRef | None
    total_steps: int | None
    requested_at: AwareDatetime
    started_at: AwareDatetime | None
    #: Of one that is being verified: when its model began to be looked for, the last time.
    updated_at: AwareDatetime
    #: When it should surely have ended, by what its trainer's trainings take.
    overdue_at: AwareDatetime | None = None

    @property
    def claim(self) -> Claim:
        """What its webhook would have proved."""
        return Claim(self.ref, self.destination, self.total_steps)


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be."""

    #: From here on a training is overdue, where nothing is learned of its trainer.
    after: timedelta
    #: Between two looks, at least.
    every: timedelta
    give_up_after: timedelta
    #: How long whoever looks for a model tries again by itself.
    retries: timedelta

    def due_at(self, training: Unfinished) -> datetime:
        """When *training* should have ended."""
        if training.stage is Stage.VERIFYING:
            # Before that, it would be looked for twice at a time, and a failure be told as often.
            return training.updated_at + self.retries + self.after
        return training.overdue_at or self._begun_at(training) + self.after

    def _begun_at(self, training: Unfinished) -> datetime:
        # Replicate said it. A date that can not be must neither overflow nor keep the training from ever being due.
        started = training.started_at
        is_credible = started is not None and abs(started - training.requested_at) <= self.give_up_after
        return started if started is not None and is_credible else training.requested_at


@dataclass(frozen=True, slots=True)
class Memory:
    """What was done about a training so far."""

    looks: int = 0
    #: How many of them saw that Replicate does not list it.
    absences: int = 0
    gets: int = 0
    asked_at: datetime | None = None
    #: Not before this.
    look_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """An overdue training, and what was done about it."""

    training: Unfinished
    memory: Memory = Memory()


@dataclass(slots=True)
class Listing:
    """What Replicate's list shows, as far back as it was read."""

    #: Sign the addresses of our webhooks.
    secrets: Sequence[str] = field(default=(), repr=False)
    is_whole: bool = False
    _since: datetime | None = None
    _by_id: dict[str, Training] = field(default_factory=dict)
    _by_ref: dict[UUID, Training] = field(default_factory=dict)
    #: Those that do not say where their webhooks go.
    _silent: list[Training] = field(default_factory=list)

    def add(self, trainings: Iterable[Training]) -> None:
        """Read one page more."""
        for training in trainings:
            self._by_id[training.id] = training
            if training.webhook is None:
                self._silent.append(training)
            elif claim := claim_in(training.webhook, self.secrets):
                self._by_ref[claim.ref] = training
            if training.created_at is not None:
                self._since = min(training.created_at, self._since or training.created_at)

    def goes_back_to(self, moment: datetime) -> bool:
        """Was it read as far back as that?"""
        return self.is_whole or (self._since is not None and self._since < moment)

    def reaches(self, training: Unfinished) -> bool:
        """Would it show *training*, if Replicate had it?"""
        return self.goes_back_to(training.requested_at - _CLOCKS_OFF)

    def find(self, training: Unfinished) -> Training | None:
        """The training itself: by its id, or by the address that we signed for it."""
        if training.training_id is not None:
            return self._by_id.get(training.training_id)
        return self._by_ref.get(training.ref)

    def may_be(self, training: Unfinished) -> list[Training]:
        """
        Those that may be *training*, whose id nobody knows.

        Replicate names the destination in the output only, so it is one that has made a version there.
        """
        return [each for each in self._silent if _fits(training, each)]


@dataclass(frozen=True, slots=True)
class Tell:
    """Replicate says what became of it: pass that on."""

    training: Unfinished
    found: Training


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask Replicate for this one, by its id."""

    training: Unfinished
    training_id: TrainingId


@dataclass(frozen=True, slots=True)
class Identify:
    """It is one of *candidates*, if state knows all but that one; else nobody can tell."""

    training: Unfinished
    candidates: tuple[Training, ...]
    #: Does the list show all that there are?
    is_absent_otherwise: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later."""

    training: Unfinished
    is_absent: bool = False


@dataclass(frozen=True, slots=True)
class LookAgain:
    """State is to have its model looked for once more."""

    training: Unfinished


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody will hear of it any more."""

    training: Unfinished
    training_id: TrainingId
    reason: str


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """Replicate was never asked for it."""

    training: Unfinished
    reason: str


Step: TypeAlias = Tell | Ask | Identify | Wait | LookAgain | GiveUp | NeverStarted


@dataclass(slots=True)
class CallBudget:
    """How many calls are left; *per_minute* come back in each minute, and no more than those are ever saved."""

    per_minute: int
    left: float = field(init=False)
    _then: float | None = None

    def __post_init__(self) -> None:
        self.left = float(self.per_minute)

    def spend(self, now: float) -> bool:
        """Take one at *now* (seconds, of any clock that only rises), if there is one."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        if self.left < 1:
            return False
        self.left -= 1
        return True


def is_due(watched: Watched, now: datetime, limits: Limits) -> bool:
    """Is it time to look?"""
    look_at = watched.memory.look_at
    return limits.due_at(watched.training) <= now and (look_at is None or look_at <= now)


def next_look(training: Unfinished, now: datetime, limits: Limits) -> datetime:
    """When to look again: the later, the longer it is overdue."""
    distance = (now - limits.due_at(training)) / 2
    return now + min(max(distance, limits.every), max(_LONGEST_DISTANCE, limits.every))


def after_telling(training: Unfinished, now: datetime, limits: Limits) -> datetime:
    """When to tell the same again, if state has not heard it by then."""
    return max(next_look(training, now, limits), now + limits.after)


def oldest(watched: Iterable[Watched]) -> datetime | None:
    """How far back Replicate's list is to be read for these."""
    needed = [each.training.requested_at for each in watched if each.training.stage is not Stage.VERIFYING]
    return min(needed) - _CLOCKS_OFF if needed else None


def plan(
    watched: Sequence[Watched],
    listing: Listing,
    *,
    now: datetime,
    limits: Limits,
    others: Iterable[Unfinished] = (),
) -> list[Step]:
    """
    What to do about each of *watched*, which are due; the longest overdue first.

    *others* have not ended and are not due: what may be one of these is nobody else's.
    """
    in_order = sorted(watched, key=lambda each: limits.due_at(each.training))
    nameless = [each for each in (*(each.training for each in in_order), *others) if _has_no_id(each)]
    candidates = {each.ref: listing.may_be(each) for each in nameless}
    # One that may be two of ours is none: nobody guesses whose model it makes.
    claimants = Counter(found.id for several in candidates.values() for found in several)
    sole = {ref: [found for found in several if claimants[found.id] == 1] for ref, several in candidates.items()}
    return [_step(each, listing, sole, now, limits) for each in in_order]


def _step(
    watched: Watched, listing: Listing, sole: Mapping[UUID, list[Training]], now: datetime, limits: Limits
) -> Step:
    training = watched.training
    if training.stage is Stage.VERIFYING:
        return _step_of_verified(watched, now, limits)
    found = listing.find(training)
    if found is not None:
        return _step_of_found(watched, found, now, limits)
    is_absent = listing.reaches(training)
    if training.training_id is not None:
        return _step_of_missing(watched, training.training_id, now, limits, is_absent=is_absent)
    if candidates := sole[training.ref]:
        return Identify(training, tuple(candidates), is_absent)
    return _step_of_nameless(watched, now, limits, is_absent=is_absent)


def _step_of_verified(watched: Watched, now: datetime, limits: Limits) -> Step:
    training = watched.training
    # Without an id there is nothing to tell: state may still know what to look for.
    if training.training_id is not None and _is_hopeless(watched, now, limits):
        why = f"whether its model works is not known since {training.updated_at:%F %R} UTC"
        return _give_up(training, training.training_id, now, why)
    return LookAgain(training)


def _step_of_found(watched: Watched, found: Training, now: datetime, limits: Limits) -> Step:
    training = watched.training
    if found.has_ended:
        # A list need not show everything.
        is_poor = found.status == TrainingStatus.SUCCEEDED and found.output is None
        return Ask(training, found.id) if is_poor and _may_ask(watched.memory, now, limits) else Tell(training, found)
    if _is_hopeless(watched, now, limits):
        return _give_up(training, found.id, now, f"Replicate still says {found.status!r}")
    return Tell(training, found) if training.stage is Stage.REQUESTED else Wait(training)


def _step_of_missing(
    watched: Watched, training_id: TrainingId, now: datetime, limits: Limits, *, is_absent: bool
) -> Step:
    if _may_ask(watched.memory, now, limits):
        return Ask(watched.training, training_id)
    if _is_hopeless(watched, now, limits):
        return _give_up(watched.training, training_id, now, "Replicate does not show it")
    return Wait(watched.training, is_absent)


def _step_of_nameless(watched: Watched, now: datetime, limits: Limits, *, is_absent: bool) -> Step:
    training, looks = watched.training, watched.memory.absences + 1
    is_late = now >= limits.due_at(training) + 2 * limits.after
    # Of one that is said to run, a webhook was heard.
    if training.stage is Stage.REQUESTED and is_absent and is_late and looks >= _ENOUGH_LOOKS:
        return NeverStarted(training, f"Replicate was never asked to start it: it lists none, after {looks} looks")
    if _is_hopeless(watched, now, limits):
        age = _in_words(now - training.requested_at)
        return NeverStarted(training, f"nobody has heard of it within {age}")
    return Wait(training, is_absent)


def _give_up(training: Unfinished, training_id: TrainingId, now: datetime, what: str) -> GiveUp:
    age = _in_words(now - training.requested_at)
    return GiveUp(training, training_id, f"given up after {age} without an end: {what}")


def _may_ask(memory: Memory, now: datetime, limits: Limits) -> bool:
    if memory.asked_at is None or memory.gets == 0:
        return True
    return memory.gets < MOST_GETS and now >= memory.asked_at + limits.after * 2 ** (memory.gets - 1)


def _is_hopeless(watched: Watched, now: datetime, limits: Limits) -> bool:
    return watched.memory.looks >= _ENOUGH_LOOKS and now >= watched.training.requested_at + limits.give_up_after


def _in_words(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"  # noqa: PLR2004 (two days)


def _has_no_id(training: Unfinished) -> bool:
    return training.training_id is None


def _fits(training: Unfinished, found: Training) -> bool:
    if training.trainer is None or found.created_at is None or found.status != TrainingStatus.SUCCEEDED:
        return False
    begun, ended = training.requested_at - _CLOCKS_OFF, training.requested_at + _START_TAKES
    # Replicate may run another version of the trainer than the one that was asked for.
    is_of_trainer = found.trainer == str(training.trainer.model)
    return is_of_trainer and begun <= found.created_at <= ended and _destination(found) == training.destination


def _destination(found: Training) -> ModelName | None:
    """The model that *found* made a version of, where its output says so in full."""
    match found.output:
        case {"version": str(version)}:
            ref = ModelRef.parse(version)
            return ref.model if ref else None
    return None
