"""What the pages of trainings and of a user show. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic import BaseModel, JsonValue

from services.ops.console.views.formats import duration, number, roughly

#: Stages in the order of a training's walk; in the first three it changes by itself.
STAGES: Final = (
    "requested",
    "running",
    "verifying",
    "active",
    "replaced",
    "superseded",
    "failed",
    "canceled",
    "unverified",
)
UNDERWAY: Final = STAGES[:3]
#: The reason that state writes for a swap by a replay.
_REPLAYED: Final = re.compile(r"replay ([0-9a-f-]{36}):(\d{1,18})", re.ASCII)
_TITLES: Final = {
    "training": "Swapped in",
    "replay": "Swapped in by a replay",
    "rollback": "Rolled back",
    "withdrawal": "Withdrawn",
}


class Failure(BaseModel):
    """Why a training has no usable model."""

    code: str
    reason: str


class TrainingAnswer(BaseModel):
    """A training."""

    ref: UUID
    training_id: str | None
    user_id: str
    generation: int
    activated_generation: int | None = None
    stage: str
    current: bool
    destination: str
    trainer: str | None
    trigger_word: str
    progress: int
    progress_source: str | None
    step: int | None
    total_steps: int | None
    eta_seconds: int | None
    eta_low_seconds: int | None
    eta_high_seconds: int | None
    overdue_at: datetime | None
    reference: str | None
    failure: Failure | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def name(self) -> str:
        """Replicate's id, or our ref until that is known."""
        return self.training_id or str(self.ref)

    @property
    def is_underway(self) -> bool:
        return self.stage in UNDERWAY

    @property
    def may_retry(self) -> bool:
        """Whether the extraction can be retried: it succeeded without a model of its own."""
        return self.stage in ("verifying", "unverified")

    @property
    def may_cancel(self) -> bool:
        """Whether Replicate can be asked to cancel it."""
        return self.stage in ("requested", "running") and self.training_id is not None

    @property
    def took(self) -> str:
        """How long it ran at Replicate; empty if that is unknown."""
        if self.started_at is None or self.completed_at is None:
            return ""
        return f"took {duration(max(0.0, (self.completed_at - self.started_at).total_seconds()))}"


class OutputAnswer(BaseModel):
    """A training's output."""

    output: JsonValue


class ModelAnswer(BaseModel):
    """A user's current model, or the one that a rollback would make current."""

    reference: str
    generation: int
    training_id: str
    trigger_word: str
    activated_at: datetime


class Why(NamedTuple):
    """Why a user's model changed; *links* lead to the replay that changed it, and to its dead letter."""

    text: str
    links: Sequence[tuple[str, str]] = ()


class ChangeAnswer(BaseModel):
    """A change of a user's model."""

    user_id: str | None = None
    generation: int
    reference: str | None
    previous_reference: str | None
    training_id: str
    cause: str
    actor: str
    reason: str
    at: datetime

    @property
    def title(self) -> str:
        return _TITLES.get(self.cause, self.cause.capitalize())

    @property
    def why(self) -> Why:
        if self.cause == "training":
            return Why(self.reason or "Its training ended, and the model was verified.")
        if self.cause == "replay" and (mark := _REPLAYED.fullmatch(self.reason)):
            replay, number = mark.groups()
            of_letter = (f"/dead-letters/{number}", f"dead letter {number}")
            return Why("", ((f"/replays/{replay}", f"replay {replay[:8]}"), of_letter))
        return Why(f"“{self.reason}”" if self.reason else "No reason was given.")

    def is_current(self, current: ModelAnswer | None) -> bool:
        """Return whether it is what made the user's model *current*."""
        return current is not None and current.generation == self.generation

    def may_be_target(self, current: ModelAnswer | None) -> bool:
        """Return whether the user can be rolled back to its model: there is one, and it is not the *current* one."""
        return self.reference is not None and (current is None or current.reference != self.reference)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is, and when it should end."""

    #: None: nothing is known, neither from the log nor when it began.
    percent: int | None
    #: From the time and not from the log.
    is_estimate: bool
    steps: str
    #: How long it takes still, and in 8 of 10 cases; empty if that is unknown.
    left: str
    band: str
    is_late: bool


def progress_of(training: TrainingAnswer, now: datetime) -> Progress:
    is_late = training.overdue_at is not None and training.overdue_at < now
    low, high = training.eta_low_seconds, training.eta_high_seconds
    steps = "" if training.step is None else f"step {number(training.step)}"
    if steps and training.total_steps is not None:
        steps += f" of {number(training.total_steps)}"
    return Progress(
        percent=training.progress if training.progress or training.started_at else None,
        is_estimate=training.progress_source == "estimate",
        steps=steps,
        left=_left(training, is_late=is_late),
        band=f"{roughly(low)} to {roughly(high)}" if low is not None and high is not None and low < high else "",
        is_late=is_late,
    )


def _left(training: TrainingAnswer, *, is_late: bool) -> str:
    if training.eta_low_seconds is not None and training.eta_high_seconds is None:
        return "longer than usual"
    return "" if is_late or training.eta_seconds is None else f"about {roughly(training.eta_seconds)} left"


def training_path(name: str) -> str:
    """Return the address of a training's page, by its name."""
    return f"/trainings/{quote(name, safe='')}"


def user_path(user_id: str, **query: str | None) -> str:
    """Return the address of a user's page. The id may hold any printable character."""
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return f"/users/{quote(user_id, safe='')}" + (f"?{given}" if given else "")
