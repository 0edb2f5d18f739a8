"""The screen Now: one sentence that says whether all is well, the walk, what runs, and how fast swaps are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from markupsafe import Markup
from pydantic import BaseModel

from services.ops.console.views import charts
from services.ops.console.views.formats import NOTHING, duration, number
from services.ops.console.views.queues import REMEDY_OF_PAUSED, Concern, WebhooksAnswer
from services.ops.console.views.trainings import UNDERWAY
from services.ops.letters.views import GroupView, LetterCounts
from services.ops.reconcile.views import Reconciliation
from shared.contract.health import follows_from
from shared.contract.text import plural


class StageCount(BaseModel):
    """How many trainings are in a stage."""

    stage: str
    count: int
    is_exact: bool

    @property
    def said(self) -> str:
        if self.is_exact:
            return number(self.count)
        return f"~{number(round(self.count, 2 - len(str(self.count))))}"


class CountsAnswer(BaseModel):
    """How many trainings are in each stage."""

    items: Sequence[StageCount]

    def find(self, stage: str) -> StageCount | None:
        return next((each for each in self.items if each.stage == stage), None)

    @property
    def on_the_way(self) -> int:
        """How many trainings have not come to an end."""
        return sum(each.count for each in self.items if each.stage in UNDERWAY)


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


def verdict(found: Sequence[Concern], unfinished: int | None, swaps: StatisticsAnswer | None) -> tuple[str, str]:
    """Return the kind and the sentence that stand on top."""
    if any(each.kind == "bad" for each in found):
        return "bad", "Something needs you."
    if any(each.kind == "warn" for each in found):
        return "warn", "Nothing is urgent, but look at this."
    runs = f"{plural(unfinished, 'training')} on the way" if unfinished else "No training is on the way"
    swapped = f", {plural(swaps.total.swaps, 'swap')} in the last 24 hours" if swaps and swaps.total.swaps else ""
    return "good", f"All is well. {runs}{swapped}, and nothing waits for you."
