"""Replays as their screens show them: progress, what may be done now, users old to new. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from markupsafe import Markup
from pydantic import JsonValue

from services.ops.console.views.charts import Part, stage_bar
from services.ops.console.views.filters import LETTER_FIELDS
from services.ops.console.views.formats import kind, number
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


class Replay(ReplayView):
    """A replay, with what its pages say of it."""

    @property
    def is_plan(self) -> bool:
        """Whether it is a dry run that was not started: predictions are shown, not outcomes."""
        return self.status in (Status.PREVIEWING, Status.PREVIEWED)

    @property
    def kind(self) -> str:
        return kind(self.status, "replay")

    @property
    def word(self) -> str:
        return _WORDS.get(self.status, self.status.value)

    @property
    def done(self) -> int:
        """How many have their outcome, or their prediction."""
        return sum(self.predictions.values()) if self.is_plan else self.ended

    @property
    def counts(self) -> Sequence[Count]:
        found = self._predicted() if self.is_plan else self.outcomes
        return [
            Count(outcome, kind(outcome, "outcome"), found[outcome], meaning)
            for outcome, meaning in MEANINGS.items()
            if found.get(outcome)
        ]

    def _predicted(self) -> dict[Outcome, int]:
        unasked = self.outcomes.get(Outcome.PLANNED, 0) - sum(self.predictions.values())
        skipped = self.outcomes.get(Outcome.SKIPPED, 0)
        return {**self.predictions, Outcome.PLANNED: unasked, Outcome.SKIPPED: skipped}

    @property
    def bar(self) -> Markup:
        said = [f"{number(each.count)} {each.outcome}" for each in self.counts]
        parts = [Part(each.count, text, each.kind) for each, text in zip(self.counts, said, strict=True)]
        return stage_bar(parts, sentence=f"Of {plural(self.letters, 'dead letter')}: {', '.join(said)}")

    @property
    def verbs(self) -> Sequence[str]:
        gives_up = self.status is Status.CANCELED and self.outcomes.get(Outcome.SENT)
        return ("give up",) if gives_up else _VERBS[self.status]

    @property
    def may_undo(self) -> bool:
        """Whether it set models, and may be undone now."""
        is_underway = self.undo is not None and self.undo.status == "undoing"
        return self.status in UNDOABLE and bool(self.outcomes.get(Outcome.SWAPPED)) and not is_underway

    @property
    def which(self) -> str:
        """Which dead letters it was asked for."""
        return selection_text(self.selection)

    @property
    def step_sizes(self) -> str:
        """How many dead letters each step has."""
        sizes = [end - begin for begin, end in pairwise([0, *self.steps])]
        return ", then ".join(number(size) for size in sizes)


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
