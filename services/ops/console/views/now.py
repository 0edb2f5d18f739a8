"""The screen Now: one sentence that says whether all is well, the walk, what runs, and how fast swaps are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from markupsafe import Markup
from pydantic import BaseModel

from services.ops.console.views import charts
from services.ops.console.views.formats import NOTHING, duration, number
from services.ops.console.views.kinds import kind
from services.ops.console.views.queues import REMEDY_OF_PAUSED, Concern, WebhooksAnswer
from services.ops.console.views.trainings import UNDERWAY
from services.ops.letters.views import GroupView, LetterCounts
from services.ops.reconcile.views import Reconciliation
from shared.contract.health import follows_from
from shared.contract.text import plural

#: The stages of the walk, and those that it ends in otherwise.
_WALK: Final = ("requested", "running", "verifying", "active")
_ENDS: Final = ("replaced", "superseded", "unverified", "failed", "canceled")
_MEANING: Final = {
    "requested": "asked for, not running yet",
    "running": "Replicate trains",
    "verifying": "the model is being checked",
    "active": "the user's current model",
    "replaced": "a newer model of the user is current",
    "superseded": "verified, but a newer one was current already",
    "unverified": "succeeded, but no usable model was found",
    "failed": "Replicate reports a failure",
    "canceled": "canceled before the end",
}


class StageCount(BaseModel):
    """How many trainings are in a stage."""

    stage: str
    count: int
    is_exact: bool


class CountsAnswer(BaseModel):
    """How many trainings are in each stage."""

    items: Sequence[StageCount]


class SwapStatistics(BaseModel):
    """Swaps, and the seconds from webhook to swap."""

    swaps: int
    p50_seconds: float | None
    p99_seconds: float | None

    @property
    def median(self) -> str:
        return _seconds(self.p50_seconds)

    @property
    def slowest(self) -> str:
        return _seconds(self.p99_seconds)


class HourStatistics(SwapStatistics):
    """Swaps in the hour from then on."""

    hour: datetime

    @property
    def seconds_title(self) -> str:
        if self.p50_seconds is None:
            return "no swap"
        return f"half within {self.median}, 99 % within {self.slowest}"


class StatisticsAnswer(BaseModel):
    """Swaps of the last hours, the oldest first."""

    total: SwapStatistics
    items: Sequence[HourStatistics]

    @property
    def swaps_chart(self) -> Markup:
        busiest = max((each.swaps for each in self.items), default=0)
        swaps = f"{number(self.total.swaps)} in {len(self.items)} hours, at most {number(busiest)} in one"
        points = [charts.Point(each.swaps, plural(each.swaps, "swap"), each.hour) for each in self.items]
        return charts.bars(points, sentence=f"Swaps per hour: {swaps}.")

    @property
    def seconds_chart(self) -> Markup | None:
        """The seconds from webhook to swap; None if there are too few hours for a line."""
        if sum(each.p50_seconds is not None for each in self.items) <= 1:
            return None
        median = [charts.Point(each.p50_seconds, each.seconds_title, each.hour) for each in self.items]
        slowest = [charts.Point(each.p99_seconds, each.seconds_title, each.hour) for each in self.items]
        within = f"half within {self.total.median}, 99 of 100 within {self.total.slowest}"
        return charts.lines([("info", median), ("quiet", slowest)], sentence=f"From webhook to swap: {within}.")


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its trainings."""

    name: str
    kind: str
    count: str
    meaning: str
    address: str


def steps(counts: CountsAnswer | None, letters: LetterCounts | None) -> tuple[list[Step], list[Step]]:
    """Return the stages of the walk, and how trainings end otherwise, with the dead letters."""
    by_stage = {} if counts is None else {each.stage: each for each in counts.items}
    walk = [_step(name, by_stage) for name in _WALK]
    ends = [_step(name, by_stage) for name in _ENDS]
    open_letters = NOTHING if letters is None else number(letters.open)
    colour = "bad" if letters and letters.open else "quiet"
    return walk, [*ends, Step("dead letters", colour, open_letters, "open dead letters", "/dead-letters")]


def _step(name: str, counts: Mapping[str, StageCount]) -> Step:
    found = counts.get(name)
    colour = kind(name, "stage") if found and found.count else "quiet"
    return Step(name, colour, _said(found), _MEANING[name], f"/trainings?stage={name}")


def _said(found: StageCount | None) -> str:
    if found is None:
        return NOTHING
    if found.is_exact:
        return number(found.count)
    return f"~{number(round(found.count, 2 - len(str(found.count))))}"


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds)


def concerns(
    health: Sequence[Concern],
    *,
    letters: LetterCounts | None,
    groups: Sequence[GroupView],
    reconciliation: Reconciliation | None,
    webhooks: WebhooksAnswer | None,
    away: Mapping[str, str],
) -> list[Concern]:
    """Return what is not well, the worst first: *health* is that of queues and processes."""
    found = [
        *_by_cause([*(Concern("bad", f"services.{name} cannot answer", why) for name, why in away.items()), *health]),
        *_of_letters(letters, groups),
        *_passing(reconciliation, webhooks),
    ]
    return sorted(found, key=_urgency)


def _urgency(concern: Concern) -> int:
    return ("bad", "warn", "info").index(concern.kind)


def _by_cause(found: Sequence[Concern]) -> Iterator[Concern]:
    """Yield one concern for all that follows from one outage, and the others as they are."""
    causes = [follows_from(each.text) for each in found]
    for cause in dict.fromkeys(filter(None, causes)):
        effects = [each for each, its in zip(found, causes, strict=True) if its == cause]
        error = next((said[0] for each in effects if (said := re.search(rf"{cause}[^;]*", each.text))), f"{cause}.")
        text = f"{error}. From that follows: {', '.join(each.what for each in effects)}."
        yield Concern(min(effects, key=_urgency).kind, cause, text, f"start it; {REMEDY_OF_PAUSED}")
    yield from (each for each, cause in zip(found, causes, strict=True) if cause is None)


def _of_letters(letters: LetterCounts | None, groups: Sequence[GroupView]) -> Iterator[Concern]:
    if letters is not None and letters.open:
        newest = f"Most of them: {groups[0].error_text}" if groups else ""
        fresh = sum(each.last_hour for each in groups)
        what = plural(letters.open, "open dead letter")
        # Also those that were repaired since.
        what += f"; {plural(fresh, 'message')} failed in the last hour" if fresh else ""
        yield Concern("bad" if fresh else "warn", what, newest, address="/dead-letters")
    if letters is not None and letters.replaying:
        verb = "is" if letters.replaying == 1 else "are"
        what = f"{plural(letters.replaying, 'dead letter')} {verb} being replayed"
        yield Concern("info", what, address="/replays")


def _passing(reconciliation: Reconciliation | None, webhooks: WebhooksAnswer | None) -> Iterator[Concern]:
    """Yield what the reconciler has mended, or will."""
    if webhooks is not None and webhooks.total.missed:
        text = f"{webhooks.sentence} The reconciler found them by asking Replicate."
        yield Concern("info", f"{webhooks.share} of the webhooks from Replicate were missed", text)
    if reconciliation is not None and (overdue := reconciliation.last_round.overdue):
        text = "No webhook reported their end; the reconciler asks Replicate."
        yield Concern("info", f"{plural(overdue, 'training')} {'is' if overdue == 1 else 'are'} overdue", text)


def on_the_way(counts: CountsAnswer | None) -> int | None:
    """Return how many trainings have not come to an end; None: not known."""
    return None if counts is None else sum(each.count for each in counts.items if each.stage in UNDERWAY)


def verdict(found: Sequence[Concern], unfinished: int | None, swaps: StatisticsAnswer | None) -> tuple[str, str]:
    """Return the kind and the sentence that stand on top."""
    if any(each.kind == "bad" for each in found):
        return "bad", "Something needs you."
    if any(each.kind == "warn" for each in found):
        return "warn", "Nothing is urgent, but look at this."
    runs = f"{plural(unfinished, 'training')} on the way" if unfinished else "No training is on the way"
    swapped = f", {plural(swaps.total.swaps, 'swap')} in the last 24 hours" if swaps and swaps.total.swaps else ""
    return "good", f"All is well. {runs}{swapped}, and nothing waits for you."
