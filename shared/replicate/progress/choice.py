"""Chooses the count in a log that is the training's own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from pydantic import JsonValue

from shared.replicate.progress.counts import LETTER, Count, counts_in
from shared.replicate.progress.epochs import (
    Epoch,
    Progress,
    counts_epochs,
    counts_within_something,
    named_epoch,
    overall,
)
from shared.replicate.progress.hints import find_hint
from shared.replicate.progress.lines import Log
from shared.replicate.progress.plan import MOST_STEPS, Plan
from shared.replicate.progress.words import announces_other_work

#: A bar at least this long is the training's: preparations are shorter.
_LONG: Final = 100
#: Tolerance between a total and the requested steps: a trainer may round to whole epochs.
_ROUNDING: Final = 0.05


class _Doubt(Enum):
    """Why a bar, which only its length suggests, is not taken as the training's."""

    #: Try an older count.
    OTHER_WORK = auto()
    #: This bar, or the one above it, is the training's; which one is not known.
    AMBIGUOUS = auto()


def read_progress(logs: str | list[JsonValue] | None, training_input: Mapping[str, JsonValue]) -> Progress | None:
    """Return the progress that *logs* show of the training with this input, or None if they show none."""
    log = Log(logs)
    plan = Plan.of(training_input)
    if plan.steps is None:
        plan = plan.with_steps(log.announced_steps)
    hint: Progress | None = None
    for line in log.lines_from_the_end():
        counts = counts_in(line, plan.steps, log.find)
        for count in reversed(counts):
            epoch = named_epoch(count, plan, log)
            if not _is_training(count, epoch, plan):
                continue
            doubt = None if epoch or _is_surely_training(count, plan) else _doubt(count, plan, log)
            if doubt is _Doubt.AMBIGUOUS:
                return hint
            progress = None if doubt else overall(count, epoch, plan, log)
            if progress:
                return progress
        if not (counts or hint):
            hint = find_hint(line, plan, log)
    return hint


def _is_training(count: Count, epoch: Epoch | None, plan: Plan) -> bool:
    return 0 < count.total <= MOST_STEPS and _may_be_training(count, epoch, plan) and not count.is_of_other_work


def _may_be_training(count: Count, epoch: Epoch | None, plan: Plan) -> bool:
    if count.total in plan.totals:
        return True
    if count.step > count.total or not count.agrees_with_percent:
        return False
    if epoch or counts_epochs(count, plan):
        return True
    if counts_within_something(count):
        return False
    if plan.steps is None:
        return count.shows_loss or count.total >= _LONG or count.is_named_training
    is_near = abs(count.total - plan.steps) <= plan.steps * _ROUNDING
    return count.shows_loss or (is_near and (count.of_steps or LETTER.search(count.before) is not None))


def _is_surely_training(count: Count, plan: Plan) -> bool:
    return not count.is_bar or count.shows_loss or count.is_named_training or count.total in plan.totals


def _doubt(count: Count, plan: Plan, log: Log) -> _Doubt | None:
    """Return why a bar may be of other work, judged by the text above its first drawing, or None."""
    above = log.beginning(count.total)
    if above is None or (count.is_unnamed and announces_other_work(above.line)):
        return _Doubt.OTHER_WORK
    rival = above.rival
    if rival is None or rival.total == count.total or _is_announced_as_other_work(rival, log):
        return None
    # Of two bars below one heading, the second is the epoch's validation.
    if rival.step < rival.total or _is_surely_training(rival, plan) or (count.is_unnamed and log.heading()):
        return _Doubt.OTHER_WORK
    return _Doubt.AMBIGUOUS if count.is_unnamed and rival.total > count.total else None


def _is_announced_as_other_work(rival: Count, log: Log) -> bool:
    above = log.beginning(rival.total) if rival.is_unnamed else None
    return above is not None and announces_other_work(above.line)
