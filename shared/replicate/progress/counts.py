"""
Finds the counts in a line of a log: bars, ``step 120/1000``, fields, each with the text around it. Pure.

Every expression is linear: it passes over the line once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from shared.replicate.progress.words import (
    PREFIX,
    has_other_unit,
    has_rate_of_other_work,
    is_title,
    is_title_of_other_work,
    names_other_work,
)

#: A bar rounds its percentage.
_PERCENT_TOLERANCE: Final = 1.5
#: Limit of counts on a line of text, because the text before each is read to judge it.
_MOST_COUNTS_IN_LINE: Final = 8
#: How many characters after a count without brackets belong to it.
_AFTER: Final = 200

Find = Callable[[re.Pattern[str], str], list[re.Match[str]]]


class Count(NamedTuple):
    """A count: *step* of *total*."""

    #: Text before it on its line, back to the previous count.
    before: str
    step: int
    total: int
    percent: int | None = None
    #: Text after it: a bar's brackets (times, rate, loss), or what follows the count.
    after: str = ""
    #: Whether it is named a count of steps.
    of_steps: bool = False
    is_bar: bool = False

    @property
    def is_unnamed(self) -> bool:
        return not LETTER.search(PREFIX.sub("", self.before[-_AFTER:]))

    @property
    def agrees_with_percent(self) -> bool:
        """Whether the bar's own percentage fits its count; it does not if the log was cut within the total."""
        return self.percent is None or abs(self.step / self.total * 100 - self.percent) <= _PERCENT_TOLERANCE

    @property
    def shows_loss(self) -> bool:
        return holds(self.after, "loss") or self.shows_learning_rate

    @property
    def shows_learning_rate(self) -> bool:
        return holds(self.after, "lr") and _LEARNING_RATE.search(self.after) is not None

    @property
    def is_named_training(self) -> bool:
        """Whether its name is of training; ``Step 2/4: Training`` is one of a few stages of the whole job."""
        return not is_title(self.after) if self.of_steps else TRAINING.search(self.before) is not None

    @property
    def is_of_other_work(self) -> bool:
        """Whether its name or rate is that of other work. A bar with a learning rate is always the training's."""
        if self.shows_learning_rate:
            return False
        if names_other_work(self.before):
            return True
        if self.is_bar:
            return has_rate_of_other_work(self.after)
        if self.of_steps:
            return is_title_of_other_work(self.after)
        return not self.shows_loss and has_other_unit(self.after)


_SCALES: Final = {"k": 10**3, "m": 10**6, "g": 10**9}
_GROUPED: Final = r"[0-9]{1,3}(?:,[0-9]{3}){1,3}"
#: A bar that scales its counts writes 12 as ``12.0``; elsewhere, ``1.200`` may be twelve hundred.
_IN_BAR: Final = r"([0-9]{1,12}(?:\.[0-9]{1,6})?[kKMG]?)"
_NUMBER: Final = rf"({_GROUPED}|[0-9]{{1,12}}(?:\.[0-9]{{1,6}}[kKMG]|[kKMG])?)"
_OF: Final = r"""["']?\s{0,12}(?:/|of|out of)\s{0,12}["']?"""
#: Not within a word, a date, a path, or a number that is grouped otherwise.
_END: Final = r"(?![\w/]|[.,:'\u2019-]\d|\s\d{3}(?![\w.]))"
#: What may stand between a word and its number: ``step: [``, ``step': '``, padding.
_TO_NUMBER: Final = r"""["']?\s?(?:\(train(?:ing)?\))?[\s:=#(\["']{0,14}"""
_STEP_WORD: Final = r"(?:step|iter(?:ation)?)"

_BAR: Final = re.compile(rf"(?:\||[━─╸╺]{{2}})\s{{0,9}}{_IN_BAR}/{_IN_BAR}(?![\w/]|[.,:-]\d)(?:\s?\[([^\[\]]*))?")
_BAR_HEAD: Final = re.compile(r"(?<!\d)([0-9]{1,3})$")
#: A bar, or its times alone, behind the count.
_BAR_BEHIND: Final = re.compile(
    rf"(?<![\w.:/,-]){_IN_BAR}/{_IN_BAR}(?=\s{{1,3}}(?:━|\[[=>.]{{3}}|\[?\d{{1,3}}:\d\d(?::\d\d)?<))"
)
_ENDLESS_BAR: Final = re.compile(rf"(?<![\w.]){_IN_BAR}it \[([^\[\]]*)")
_STEP_OF: Final = re.compile(rf"(?<![a-z]){_STEP_WORD}s?{_TO_NUMBER}{_NUMBER}{_OF}{_NUMBER}{_END}", re.IGNORECASE)
#: Not of bytes.
_RATIO: Final = re.compile(rf"(?<![\w.:/,-]){_NUMBER}{_OF}{_NUMBER}{_END}(?!\s?[kKMGT]?i?B\b)")
#: ``Epoch [3][``, ``Epoch 3/9, batch ``
_IN_EPOCH: Final = re.compile(
    rf"(?<![\w-])epochs?{_TO_NUMBER}[0-9]{{1,6}}(?:\s?(?:/|of)\s?[0-9]{{1,6}})?[^\w/]{{1,12}}(?:(?:(?:mini-?)?batch(?:es)?|train)\W{{0,3}})?$",
    re.IGNORECASE,
)
_FIELD: Final = r"""["']\s{0,3}:\s{0,3}["']?([0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,12})(?![\w.])"""
_STEP_FIELD: Final = re.compile(rf"""["'](?:(?:global_|current_)?step|(?:global|current)_steps){_FIELD}""")
_TOTAL_FIELD: Final = re.compile(rf"""["'](?:total|total_steps|max_steps|num_steps){_FIELD}""")
_FIELD_NAME: Final = re.compile(r"""["'][\w/() -]{1,40}["']\s?:""")


def counts_in(line: str, steps: int | None, find: Find) -> list[Count]:
    """Return the counts on *line*, in their order; *steps* is the number that the training was asked for."""
    counts = _bars(line, find) or _endless_bars(line, steps, find) or _ratios(line, steps, find)
    return counts or _fields(line, steps)


def _bars(line: str, find: Find) -> list[Count]:
    """``name:  12%|█▏        | 120/1000 [01:05<07:56, 1.85it/s, loss=0.1]``, or as much of it as is left."""
    counts: list[Count] = []
    end = 0
    for bar in find(_BAR, line) if "|" in line or "━" in line or "─" in line else ():
        before = line[end : bar.start()]
        end = bar.end()
        after = line[end : end + _AFTER] if bar[3] is None else bar[3]
        name, percent = _bar_head(before)
        counts.append(Count(name, unscaled(bar[1]), unscaled(bar[2]), percent, after, is_bar=True))
    if counts or "/" not in line or not ("━" in line or "[" in line):
        return counts
    for bar in find(_BAR_BEHIND, line)[-_MOST_COUNTS_IN_LINE:]:
        name, percent = _bar_head(line[: bar.start()])
        counts.append(Count(name, unscaled(bar[1]), unscaled(bar[2]), percent, _after(line, bar), is_bar=True))
    return counts


def _bar_head(before: str) -> tuple[str, int | None]:
    """Return a bar's name and percentage."""
    at = before.rfind("%")
    head = _BAR_HEAD.search(before, max(0, at - 4), at) if at > 0 else None
    if head and before[at + 1 : at + 3].lstrip()[:1] in ("", "|", "━", "─", "╸", "╺"):
        return before[: head.start()], int(head[1])
    return before, None


def _endless_bars(line: str, steps: int | None, find: Find) -> list[Count]:
    """``train: 1200it [10:00, 2.00it/s]``: how far it goes is known from the input only."""
    if steps is None or "it [" not in line:
        return []
    bars = find(_ENDLESS_BAR, line)[-_MOST_COUNTS_IN_LINE:]
    counts = [Count(line[: bar.start()], unscaled(bar[1]), steps, after=bar[2], is_bar=True) for bar in bars]
    return [count for count in counts if count.step and (TRAINING.search(count.before) or count.shows_loss)]


def _ratios(line: str, steps: int | None, find: Find) -> list[Count]:
    """``step 120/1000``, ``Epoch [3][50/2500]``; any ``120/1000`` where 1000 steps were asked for."""
    found = find(_STEP_OF, line)[-_MOST_COUNTS_IN_LINE:] if holds(line, "step", "iter") else []
    if found:
        return [
            Count(line[: of.start(1)], unscaled(of[1]), unscaled(of[2]), after=_after(line, of), of_steps=True)
            for of in found
        ]
    names_epoch = holds(line, "epoch")
    if steps is None and not names_epoch:
        return []
    matches = find(_RATIO, line)[-_MOST_COUNTS_IN_LINE:] if "/" in line or "of" in line else []
    ratios = [Count(line[: of.start()], unscaled(of[1]), unscaled(of[2]), after=_after(line, of)) for of in matches]
    return [
        ratio
        for ratio in ratios
        if ratio.step <= ratio.total
        and not (names_epoch and IS_EPOCHS.search(ratio.before[-40:]))
        and (ratio.total == steps or (names_epoch and _IN_EPOCH.search(ratio.before[-80:])))
    ]


def _fields(line: str, steps: int | None) -> list[Count]:
    """``{"step": 120, "total_steps": 1000}``"""
    step = _STEP_FIELD.search(line) if line.lstrip().startswith("{") else None
    total = _TOTAL_FIELD.search(line) if step else None
    of = unscaled(total[1]) if total else steps
    return [Count(_FIELD_NAME.sub("", line), unscaled(step[1]), of, of_steps=True)] if step and of else []


def _after(line: str, count: re.Match[str]) -> str:
    return line[count.end() : count.end() + _AFTER]


def unscaled(number: str) -> int:
    """``1.20k`` and ``1,200`` are 1200."""
    number = number.replace(",", "")
    if number.isdecimal():
        return int(number)
    scale = _SCALES.get(number[-1].lower())
    return round(float(number[:-1]) * scale) if scale else round(float(number))


def holds(text: str, *words: str) -> bool:
    """Return whether *text* holds any of *words*. Cheaper than an expression, and most lines hold none."""
    text = text.lower()
    return any(word in text for word in words)


# What a name says.

_LEARNING_RATE: Final = re.compile(r"\blr\b", re.IGNORECASE)
LETTER: Final = re.compile(r"[a-z]", re.IGNORECASE)
#: What names the training.
TRAINING: Final = re.compile(r"(?<![a-z])(?:train|step|epoch|iter|fine-?tun)", re.IGNORECASE)
IS_EPOCHS: Final = re.compile(r"(?<![a-z])epochs?\W{0,9}$", re.IGNORECASE)
