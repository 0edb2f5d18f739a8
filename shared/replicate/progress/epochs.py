"""Converts a count within one epoch to progress of the whole training. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared.replicate.progress.counts import IS_EPOCHS, Count, holds
from shared.replicate.progress.lines import Log
from shared.replicate.progress.plan import MOST_STEPS, Plan


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training: a fraction (0..1), and steps if the log counts them."""

    fraction: float
    step: int | None = None
    total: int | None = None


class Epoch(NamedTuple):
    """Number of ended epochs, and of all; 0 if unknown."""

    over: int
    of: int


EPOCH: Final = re.compile(
    r"""(?<![\w-])(?:current_|train_)?epoch(?:s(?=\W{1,4}[0-9]{1,6}\s?/))?["']?\s?(?:\(train\))?[\s:=#(\["']{0,12}"""
    r"([0-9]{1,6})(?:\s{0,3}(?:/|of)\s{0,3}([0-9]{1,6}))?(?![\w%/]|\.\d|\s{1,3}/)(?:\W{1,3}([0-9]{1,3}(?:\.[0-9]{1,6})?)%\W)?",
    re.IGNORECASE,
)
_LEADING_RATIO: Final = re.compile(r"[^\w|]{0,20}([0-9]{1,6})/([0-9]{1,6})[\])]?[\s:]")
#: ``2|1450|Loss: ``, epoch and step.
_LEADING_EPOCH: Final = re.compile(r"\s{0,9}([0-9]{1,6})\|[0-9]{1,12}\|\s?Loss")
#: Llama's ``Epoch0`` and Lightning's bars.
_NUMBERS_FROM_ZERO: Final = re.compile(r"epoch\d|\bv_num\b", re.IGNORECASE)
_IS_STEPS: Final = re.compile(r"(?<![a-z])(?:step|iter(?:ation)?)s?\W{0,9}$", re.IGNORECASE)
#: A step without a total; its number may be grouped by commas, and is no percentage.
STEP: Final = re.compile(
    r"""(?<![\w-])(?:global_?|train_|current_)?(?:step|iter|iteration)(s?)["']?[\s:=#(\["']{0,14}"""
    r"([0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,12})(?![\w./]|\s?%|[,'\u2019]\d|\s\d{3}(?![\w.])|\s{0,12}(?:/|of\b))",
    re.IGNORECASE,
)


def overall(count: Count, named: Epoch | None, plan: Plan, log: Log) -> Progress | None:
    """Return the training's progress by its own *count*, in the epoch that it names; None if too little is known."""
    if count.total == plan.steps:
        return progress_at(count.step, count.total)
    if IS_EPOCHS.search(count.before):
        return Progress(min(1.0, count.step / count.total)) if counts_epochs(count, plan) else None
    if named is None or STEP.search(count.before):
        bar = log.epochs_bar(plan.epochs)
        if bar:
            return _in_epoch(count, Epoch(*bar), plan)
        heading = log.heading()
        named = to_epoch(heading, log.first_epoch, plan) if heading else None
    if count.total == plan.steps_per_epoch or (named and not _may_be_of_all_epochs(count, named, log)):
        return _in_epoch(count, named, plan) if named else None
    return progress_at(count.step, count.total)


def named_epoch(count: Count, plan: Plan, log: Log) -> Epoch | None:
    """Return the epoch that the text before the count names."""
    named = EPOCH.search(count.before) if holds(count.before, "epoch") else None
    if named:
        from_zero = _NUMBERS_FROM_ZERO.search(count.before + count.after)
        return to_epoch(named, 0 if from_zero else log.first_epoch, plan)
    leading = _LEADING_RATIO.match(count.before) if count.is_bar else None
    if leading and (int(leading[2]) == plan.epochs or log.has_epoch_column):
        return to_epoch(leading, 1, plan)
    leading = _LEADING_EPOCH.match(count.before)
    return Epoch(int(leading[1]) - 1, plan.epochs or 0) if leading else None


def counts_epochs(count: Count, plan: Plan) -> bool:
    """``Epochs: 33%|███▎      | 1/3``"""
    return count.total == plan.epochs and IS_EPOCHS.search(count.before) is not None


def counts_within_something(count: Count) -> bool:
    """``3/9: 50%|█████     | 50/100``: the 9 may be epochs or something else."""
    return count.is_bar and _LEADING_RATIO.match(count.before) is not None


def to_epoch(epoch: re.Match[str], first: int, plan: Plan) -> Epoch:
    """Convert a match of `EPOCH`: a number and maybe a total. A trainer that counts from 0 may end with ``9/9``."""
    number, last = int(epoch[1]), int(epoch[2] or 0)
    if not last or last == plan.epochs:
        return Epoch(number - first, plan.epochs or 0)
    return Epoch(number, last + 1) if first == 0 or last + 1 == plan.epochs else Epoch(number - first, last)


def _may_be_of_all_epochs(count: Count, epoch: Epoch, log: Log) -> bool:
    """Return whether it is a bar of steps that did not restart with the epoch, and is about as far as the epochs."""
    if not (count.is_bar and _IS_STEPS.search(count.before)) or log.has_ended_above(count.total):
        return False
    return not epoch.of or abs(count.step / count.total - (epoch.over + 0.5) / epoch.of) <= 1.5 / epoch.of


def _in_epoch(count: Count, epoch: Epoch, plan: Plan) -> Progress | None:
    total = count.total * epoch.of if epoch.of else plan.steps
    return progress_at(count.total * max(0, epoch.over) + count.step, total) if total else None


def progress_at(step: int, total: int) -> Progress:
    """Return the share of *total*, at most 1: a bar may run past its end."""
    step = min(step, total)
    return Progress(step / total, step, total) if total <= MOST_STEPS else Progress(step / total)
