"""Replays as their screens show them: progress, what may be done now, users old to new. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from pydantic import JsonValue

from services.ops.console.views.charts import Part, stage_bar
from services.ops.console.views.filters import LETTER_FIELDS
from services.ops.console.views.formats import number
from services.ops.console.views.kinds import kind
from services.ops.replays.plan import UNDOABLE, Outcome, Status
from services.ops.replays.views import ReplayView
from shared.contract.text import plural

#: What each outcome means, where its word is not enough; in the order in which they are shown.
MEANINGS: Final[Mapping[Outcome, str]] = {
    Outcome.SWAPPED: "the user has a new model",
    Outcome.DELIVERED: "the webhook was accepted",
    Outcome.MOVED: "the training went on; the model stays",
    Outcome.SUPERSEDED: "a newer model is in use already",
    Outcome.NOTHING: "it had its effect before",
    Outcome.FAILED: "it is open again",
    Outcome.CANCELED: "it was not sent",
    Outcome.SKIPPED: "it could not be part of this",
    Outcome.SENT: "underway",
    Outcome.WAITING: "not sent yet",
    Outcome.PLANNED: "not asked yet",
}
_WORDS: Final[Mapping[Status, str]] = {Status.PREVIEWING: "being predicted", Status.PREVIEWED: "ready to start"}
#: What an operator may do to a replay of each status; undo apart.
_VERBS: Final[Mapping[Status, Sequence[str]]] = {
    Status.PREVIEWING: ("start", "cancel"),
    Status.PREVIEWED: ("start", "cancel"),
    Status.RUNNING: ("pause", "cancel"),
    Status.PAUSED: ("resume", "cancel"),
    Status.STOPPED: ("resume", "cancel"),
    Status.DONE: (),
    Status.CANCELED: (),
}


@dataclass(frozen=True, slots=True)
class Count:
    """How many dead letters have an outcome."""

    outcome: Outcome
    kind: str
    count: int
    meaning: str


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """A replay."""

    replay: ReplayView
    #: Whether it is a dry run that was not started: predictions are shown, not outcomes.
    is_plan: bool
    kind: str
    word: str
    #: How many have their outcome, or their prediction.
    done: int
    bar: Markup
    counts: Sequence[Count]
    verbs: Sequence[str]
    may_undo: bool
    selection: str
    steps: str


def replay_page(replay: ReplayView) -> ReplayPage:
    is_plan = replay.status in (Status.PREVIEWING, Status.PREVIEWED)
    found = _predicted(replay) if is_plan else replay.outcomes
    counts = [
        Count(outcome, kind(outcome, "outcome"), found[outcome], meaning)
        for outcome, meaning in MEANINGS.items()
        if found.get(outcome)
    ]
    done = sum(replay.predictions.values()) if is_plan else replay.ended
    said = ", ".join(f"{number(each.count)} {each.outcome}" for each in counts)
    gives_up = replay.status is Status.CANCELED and bool(replay.outcomes.get(Outcome.SENT))
    return ReplayPage(
        replay=replay,
        is_plan=is_plan,
        kind=kind(replay.status, "replay"),
        word=_WORDS.get(replay.status, replay.status.value),
        done=done,
        bar=stage_bar(
            [Part(each.count, f"{number(each.count)} {each.outcome}", each.kind) for each in counts],
            sentence=f"Of {plural(replay.letters, 'dead letter')}: {said}",
        ),
        counts=counts,
        verbs=("give up",) if gives_up else _VERBS[replay.status],
        may_undo=may_undo(replay),
        selection=selection_text(replay.selection),
        steps=steps_text(replay),
    )


def _predicted(replay: ReplayView) -> dict[Outcome, int]:
    found = dict(replay.predictions)
    unasked = replay.outcomes.get(Outcome.PLANNED, 0) - sum(replay.predictions.values())
    skipped = replay.outcomes.get(Outcome.SKIPPED, 0)
    return {**found, Outcome.PLANNED: unasked, Outcome.SKIPPED: skipped}


def may_undo(replay: ReplayView) -> bool:
    """Return whether a replay set models, and may be undone now."""
    is_underway = replay.undo is not None and replay.undo.status == "undoing"
    return replay.status in UNDOABLE and bool(replay.outcomes.get(Outcome.SWAPPED)) and not is_underway


def selection_text(selection: Mapping[str, JsonValue]) -> str:
    """Return which dead letters a replay was asked for, in words."""
    match selection:
        case {"letters": [one]}:
            return f"dead letter {one}"
        case {"letters": list(named)}:
            return f"{number(len(named))} named dead letters"
        case {"group": str(group)}:
            return f"all open ones of group {group}"
        case {"filter": dict(chosen)}:
            given = {name: value for name, value in chosen.items() if value is not None}
            said = ", ".join(f"{LETTER_FIELDS.get(name, name).lower()} {value}" for name, value in given.items())
            return f"all open ones with {said}"
    return "dead letters"


def steps_text(replay: ReplayView) -> str:
    """Return how many dead letters each step has."""
    ends = list(replay.steps)
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    return ", then ".join(number(size) for size in sizes)


def steps_of(text: str) -> list[JsonValue]:
    """Return the steps that were typed, such as ``1, 5%, rest``; the API says what is wrong with one."""
    return [step for each in text.split(",") if (step := each.strip())]


def number_of(text: str) -> float | str:
    """Return the number that was typed; what is none is refused by the API, with its reason."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
