"""Finds progress in a line without a count: an epoch, a step of the requested number, a percentage. Pure."""

from __future__ import annotations

import re
from typing import Final

from shared.replicate.progress.counts import LETTER, holds, unscaled
from shared.replicate.progress.epochs import EPOCH, STEP, Epoch, Progress, progress_at, to_epoch
from shared.replicate.progress.lines import Log
from shared.replicate.progress.plan import Plan
from shared.replicate.progress.words import is_title_of_other_work, names_other_work

_EPOCH_FIELD: Final = re.compile(r"""["']epoch["']\s{0,3}:\s{0,3}["']?([0-9]{1,6}(?:\.[0-9]{1,20})?)(?![\w./])""")
_PERCENT: Final = re.compile(
    r"(?<![a-z])(train|training|progress)[^\w%|]{0,80}([0-9]{1,3}(?:\.[0-9]{1,6})?)\s?%(?!\|)", re.IGNORECASE
)
#: The first column of a table, ``Step (% Done)``.
_COLUMN_ROUNDING: Final = 0.06
_STEP_AND_PERCENT: Final = re.compile(r"\s{0,9}([0-9]{1,9}) \(([0-9]{1,3}\.[0-9]{1,6})%\)")
#: A logger's prefix, and words that may stand before an epoch.
_LEAD: Final = re.compile(
    r"^.*\b(?:INFO|DEBUG)\b(?:[\s:|-]{1,9}[\w.-]{1,80}\s?[:|-])?|\[[^\[\]]{0,60}\]"
    r"|\b(?:train|training|start|starting|begin)\b",
    re.IGNORECASE,
)
_NOT_A_POSITION: Final = re.compile(
    r"(?<![a-z])(?:max|num|total|every|per|best|until|since|each)\W{0,3}$", re.IGNORECASE
)


def find_hint(line: str, plan: Plan, log: Log) -> Progress | None:
    """Return the progress that *line* shows without a count, or None."""
    hints = [hint for hint in (_hint_of_epoch(line, plan, log), _hint_of_step(line, plan)) if hint]
    # A step that is less than the epoch's begin is one of that epoch.
    return max(hints, key=lambda hint: hint.fraction) if hints else _hint_of_percent(line, plan, log)


def _hint_of_epoch(line: str, plan: Plan, log: Log) -> Progress | None:
    """``Epoch 2/3``, ``Train Epoch: 2 [45%]``, ``{'loss': '0.41', 'epoch': '1.5'}``"""
    field = _EPOCH_FIELD.search(line) if plan.epochs and line.lstrip().startswith("{") else None
    if field and plan.epochs:
        return Progress(min(1.0, float(field[1]) / plan.epochs))
    named = EPOCH.search(line) if holds(line, "epoch") else None
    if named is None or names_other_work(line[: named.start()]):
        return None
    epoch = to_epoch(named, log.first_epoch, plan)
    if not named[2] and not _is_position(line[: named.start()], epoch, log):
        return None
    share = min(1.0, float(named[3] or 0) / 100)
    return Progress((epoch.over + share) / epoch.of) if 0 <= epoch.over < epoch.of else None


def _is_position(before: str, epoch: Epoch, log: Log) -> bool:
    """Return whether the epoch was reached: a number elsewhere on the line, or the last one alone, may be a setting."""
    is_last = epoch.over > 0 and epoch.over + 1 == epoch.of
    return _begins(before) and not (is_last and not log.names_epoch(epoch.over - 1 + log.first_epoch))


def _hint_of_step(line: str, plan: Plan) -> Progress | None:
    """``global_step=120`` of as many as were asked for, ``steps: 1,200 loss: 0.31``"""
    steps = STEP.finditer(line) if plan.steps and holds(line, "step", "iter") else ()
    step = min(steps, key=_rank, default=None)
    if not (step and plan.steps and unscaled(step[2]) <= plan.steps):
        return None
    before, after = line[: step.start()], line[step.end() :]
    if names_other_work(before) or is_title_of_other_work(after) or _NOT_A_POSITION.search(before):
        return None
    # Trainers write their settings, too.
    if step[1] and not (_begins(before) and holds(after, "loss", "lr")):
        return None
    return progress_at(unscaled(step[2]), plan.steps)


def _hint_of_percent(line: str, plan: Plan, log: Log) -> Progress | None:
    """``Progress: 42%``, ``1200 (4.00%)``"""
    if "%" not in line or names_other_work(line):
        return None
    column = _STEP_AND_PERCENT.match(line)
    if column and plan.steps and abs(100 * int(column[1]) / plan.steps - float(column[2])) <= _COLUMN_ROUNDING:
        return progress_at(int(column[1]), plan.steps)
    percent = _PERCENT.search(line)
    # While training, anything may be at 98 %.
    if percent and percent[1].lower() != "progress" and not _begins(line[: percent.start()]):
        percent = None
    found = percent[2] if percent else column[2] if column and log.has_percent_column else None
    share = float(found) / 100 if found else None
    return Progress(share) if share is not None and share <= 1 else None


def _rank(step: re.Match[str]) -> tuple[bool, bool, bool]:
    """Sort first the step of all epochs, then any step: an iteration may be a batch, and a plural a setting."""
    word = step[0].lower()
    return bool(step[1]), not word.startswith("global"), "step" not in word


def _begins(before: str) -> bool:
    """Return whether only a logger's prefix stands before it."""
    return not LETTER.search(_LEAD.sub("", before[-300:]))
