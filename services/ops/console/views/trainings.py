"""What the pages of trainings and of a user show. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from services.ops.console.answers import RETRYABLE, ChangeAnswer, ModelAnswer, TrainingAnswer
from services.ops.console.views.formats import duration, number, roughly
from services.ops.console.views.kinds import kind

_NO_MODEL: Final = "no model"
#: The reason that state writes for a swap by a replay.
_REPLAYED: Final = re.compile(r"replay ([0-9a-f-]{36}):(\d{1,18})", re.ASCII)


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


def may_retry(training: TrainingAnswer) -> bool:
    """Return whether the extraction of its model can be retried."""
    return training.stage in RETRYABLE


def may_cancel(training: TrainingAnswer) -> bool:
    """Return whether Replicate can be asked to cancel it."""
    return training.stage in ("requested", "running") and training.training_id is not None


class Why(NamedTuple):
    """Why a user's model changed; *links* lead to the replay that changed it, and to its dead letter."""

    text: str
    links: Sequence[tuple[str, str]] = ()


def why(change: ChangeAnswer) -> Why:
    if change.cause == "training":
        return Why(change.reason or "Its training ended, and the model was verified.")
    if change.cause == "replay" and (mark := _REPLAYED.fullmatch(change.reason)):
        replay, number = mark.groups()
        links = ((f"/replays/{replay}", f"replay {replay[:8]}"), (f"/dead-letters/{number}", f"dead letter {number}"))
        return Why("", links)
    return Why(f"“{change.reason}”" if change.reason else "No reason was given.")


def took(training: TrainingAnswer) -> str:
    """Return how long it ran at Replicate; empty if that is unknown."""
    if training.started_at is None or training.completed_at is None:
        return ""
    return f"took {duration(max(0.0, (training.completed_at - training.started_at).total_seconds()))}"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a user's model, and what can be done about it."""

    change: ChangeAnswer
    why: Why
    title: str
    tone: str
    #: Whether this is the user's model now.
    is_current: bool
    #: Where the roll back to it is previewed; None if it cannot be, or is current.
    rollback_path: str | None


_TITLES: Final = {
    "training": "Swapped in",
    "replay": "Swapped in by a replay",
    "rollback": "Rolled back",
    "withdrawal": "Withdrawn",
}


def change_of(user_id: str, change: ChangeAnswer, current: ModelAnswer | None, *, may_write: bool) -> Change:
    is_current = current is not None and current.generation == change.generation
    is_used = current is not None and current.reference == change.reference
    can = may_write and change.reference is not None and not is_used
    return Change(
        change=change,
        why=why(change),
        title=_TITLES.get(change.cause, change.cause.capitalize()),
        tone=kind(change.cause, "change"),
        is_current=is_current,
        rollback_path=user_path(user_id, rollback=change.reference) if can else None,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback or withdrawal would change, before it is done."""

    #: The last part of the form's address.
    verb: str
    before: str
    after: str
    #: The target of the rollback, whole; None in a withdrawal.
    to: str | None
    #: Of the model that the plan was made with; None: there is none.
    generation: int | None
    new_generation: int


def plan_of(current: ModelAnswer | None, planned: ModelAnswer | ChangeAnswer) -> Plan:
    """Return the plan of a rollback to a model, or of a withdrawal, by the answer of its dry run."""
    to = planned.reference if isinstance(planned, ModelAnswer) else None
    return Plan(
        verb="withdraw" if to is None else "rollback",
        before=_NO_MODEL if current is None else current.reference,
        after=_NO_MODEL if to is None else to,
        to=to,
        generation=None if current is None else current.generation,
        new_generation=planned.generation,
    )
