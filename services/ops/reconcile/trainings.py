"""A training that has not ended, as state shows it, when it is overdue, and how often Replicate is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.contract.errors import PermanentError, TransientError
from shared.contract.identity import ModelName, ModelRef, TrainingId, UserId
from shared.replicate.webhook_url import Claim

_LONGEST_DISTANCE: Final = timedelta(hours=6)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Stage(StrEnum):
    """The stages of a training, as state calls them, in which it may be overdue."""

    REQUESTED = "requested"
    RUNNING = "running"
    VERIFYING = "verifying"


class StateRefused(TransientError):
    """State refuses a request."""

    code = "state_refused"


class RetryRefused(PermanentError):
    """State does not retry an extraction, and says why."""

    code = "retry_refused"


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
    #: When it should have ended, by the durations of its trainer's trainings.
    overdue_at: AwareDatetime | None = None

    @property
    def claim(self) -> Claim:
        """Return what its webhook address proves."""
        return Claim(self.ref, self.destination, self.total_steps, self.user_id)


@dataclass(frozen=True, slots=True)
class Limits:
    """Times after which something is done."""

    #: When a training is overdue, if its trainer's durations are not known.
    after: timedelta
    #: Between two looks, at least.
    every: timedelta
    give_up_after: timedelta
    #: How long the extractor retries by itself.
    retries: timedelta

    def due_at(self, training: Unfinished) -> datetime:
        """Return when *training* should have ended."""
        if training.stage is Stage.VERIFYING:
            # Before that, a retry could still be underway: two extractions would run at a time.
            return training.updated_at + self.retries + self.after
        if training.training_id is None:
            # Without waiting for its expected end: until its id is known, its model cannot be identified.
            return min(training.requested_at + self.after, training.overdue_at or _NEVER)
        return training.overdue_at or self._begun_at(training) + self.after

    def _begun_at(self, training: Unfinished) -> datetime:
        # From Replicate: an impossible date must neither overflow nor keep the training from ever being due.
        started = training.started_at
        is_credible = started is not None and abs(started - training.requested_at) <= self.give_up_after
        return started if started is not None and is_credible else training.requested_at


@dataclass(slots=True)
class CallBudget:
    """Calls to Replicate: a token bucket of *per_minute* calls, refilled within a minute."""

    per_minute: int
    left: float = field(init=False)
    _then: float | None = None

    def __post_init__(self) -> None:
        self.left = float(self.per_minute)

    def spend(self, now: float) -> bool:
        """Take one call at *now* (seconds of a monotonic clock); False if none is left."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Memory:
    """Earlier checks of a training, as stored."""

    looks: int = 0
    #: How many of them in a row did not find it in Replicate's list.
    absences: int = 0
    gets: int = 0
    asked_at: datetime | None = None
    #: Time of the next check.
    look_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """An overdue training and its earlier checks."""

    training: Unfinished
    memory: Memory = Memory()


def is_due(watched: Watched, now: datetime, limits: Limits) -> bool:
    """Return whether a training is to be checked now."""
    look_at = watched.memory.look_at
    return limits.due_at(watched.training) <= now and (look_at is None or look_at <= now)


def next_check(training: Unfinished, now: datetime, limits: Limits, *, is_absent: bool = False) -> datetime:
    """
    Return when to check again: the later, the longer it is overdue.

    *is_absent*: Replicate's list does not show it. If its id is not known either, it was most likely never started; a
    few such checks end it. So they do not wait ever longer, however late the first of them came after an outage.
    """
    is_ended_soon = is_absent and training.training_id is None
    longest = limits.after if is_ended_soon else _LONGEST_DISTANCE
    distance = (now - limits.due_at(training)) / 2
    return now + max(min(distance, longest), limits.every)


def after_report(training: Unfinished, now: datetime, limits: Limits) -> datetime:
    """Return when to publish the same again, if state still shows the old stage."""
    return max(next_check(training, now, limits), now + limits.after)
