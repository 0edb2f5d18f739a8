"""
A training's log: its lines, last one first, and facts about the log as a whole. Pure.

Logs are long and may be hostile, so the work is bounded: the last `_MOST_CHARACTERS`, in at most `_MOST_LINES` lines,
of each line its last `_LONGEST_LINE`, until `_MOST_COUNTS` were found. The text further above is only searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice, takewhile
from typing import Final, NamedTuple

from pydantic import JsonValue

from shared.replicate.progress.counts import IS_EPOCHS, Count, counts_in, unscaled
from shared.replicate.progress.words import names_other_work

_MOST_CHARACTERS: Final = 120_000
_MOST_LINES: Final = 1_200
_LONGEST_LINE: Final = 2_000
_MOST_COUNTS: Final = 1_200
#: Limit of mentions of an epoch that are checked for a heading.
_MOST_MENTIONS: Final = 100
#: Limits of bars whose first drawing is searched for, and of characters read above it.
_MOST_BEGINNINGS: Final = 10
_ABOVE: Final = 5_000

_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]|\x08")
#: Text by users, or by a model about their images.
_FREE_TEXT: Final = re.compile(r"[\W_]{0,40}(?:caption|prompt)s?\b", re.IGNORECASE)
#: Heading of the lines below. A bar that counts steps may count those of all epochs.
_HEADING: Final = re.compile(
    r"\W{0,20}(?:(?:start|train)(?:ing)?\s)?epoch[\s:#]{0,3}(\d{1,6})(?:\s?(?:/|of)\s?(\d{1,6}))?\W{0,20}",
    re.IGNORECASE,
)
_LONGEST_HEADING: Final = 100
_LONGEST_NAME: Final = 200
#: Searched for as they stand, which is much faster than without regard to case.
_SPELLINGS_OF_EPOCH: Final = ("poch", "POCH")
_EPOCH_ZERO: Final = tuple(re.compile(epoch + r"\W{0,3}0(?![\d.%])") for epoch in _SPELLINGS_OF_EPOCH)
_EPOCHS_BAR: Final = re.compile(r"pochs?\s{0,3}:\s{0,3}\d{1,3}%\|[^|\r\n]{0,300}\|\s?(\d{1,6})/(\d{1,6})")
#: ``Total optimization steps = 1,600``
_TOTAL_STEPS: Final = re.compile(
    r"otal(?<![\w-][tT]otal)[ _](?:(?:num|number of|optimization|training|train)[ _])?steps\b[^\dA-Za-z\r\n]{1,30}"
    r"(\d{1,3}(?:,\d{3}){1,2}|\d{1,9})(?![\d.,]\d|\w)"
)
#: A table whose first column is the epoch.
_EPOCH_COLUMN: Final = re.compile(r"(?<![^\r\n])\s{0,20}epoch\s{2,40}[a-z]", re.IGNORECASE)


class Beginning(NamedTuple):
    """The text above the first drawing of a bar."""

    line: str = ""
    #: The nearest count above under the same heading that looks like the training's, or else the nearest bar; none of
    #: other work or of epochs.
    rival: Count | None = None


class Log:
    """A log, read from its end."""

    def __init__(self, logs: str | list[JsonValue] | None) -> None:
        self._text = _text(logs)
        self._counts_left = _MOST_COUNTS
        #: Offset of the current line.
        self._at = len(self._text) + 1
        self._heading: re.Match[str] | None = None
        self._heading_at = len(self._text) + 1
        self._ends: dict[int, int] = {}
        self._beginnings: dict[int, Beginning | None] = {}

    def lines_from_the_end(self) -> Iterator[str]:
        lines = self._text[-_MOST_CHARACTERS:].replace("\r", "\n").split("\n")
        for line in islice(reversed(lines), _MOST_LINES):
            if self._counts_left <= 0:
                return
            self._at -= len(line) + 1
            plain = _plain(line)
            if plain and not _FREE_TEXT.match(plain):
                yield plain[-_LONGEST_LINE:]

    def find(self, count: re.Pattern[str], line: str) -> list[re.Match[str]]:
        """Return the matches of *count* in *line*; reading ends after `_MOST_COUNTS` matches in the whole log."""
        found = list(count.finditer(line))
        self._counts_left -= len(found)
        return found

    def heading(self) -> re.Match[str] | None:
        """Return the nearest heading (``Epoch 2/3`` on a line of its own) above the current line."""
        if self._heading_at < self._at:
            return self._heading
        self._heading, self._heading_at, at = None, -1, self._at
        for _ in range(_MOST_MENTIONS):
            at = max((self._text.rfind(epoch, 0, at) for epoch in self._spellings_of_epoch), default=-1)
            if at < 0:
                break
            self._heading = _HEADING.fullmatch(self._line_at(at))
            if self._heading:
                self._heading_at = at
                break
        return self._heading

    def has_ended_above(self, total: int) -> bool:
        """Return whether a bar that counts to *total* has ended above the current line."""
        if total not in self._ends and len(self._ends) < _MOST_BEGINNINGS:
            ends = islice(re.finditer(rf"{total}/{total}(?![\d.])", self._text), _MOST_MENTIONS)
            self._ends[total] = next((end.start() for end in ends if not self._is_of_other_work(end)), -1)
        return 0 <= self._ends.get(total, -1) < self._at

    def names_epoch(self, number: int) -> bool:
        return re.search(rf"epoch\W{{0,9}}{number}\b", self._text, re.IGNORECASE) is not None

    def beginning(self, total: int) -> Beginning | None:
        """Return the text above the unnamed bar that counts to *total*; None if the limit of such bars is reached."""
        if total not in self._beginnings:
            few = len(self._beginnings) < _MOST_BEGINNINGS
            self._beginnings[total] = self._find_beginning(total) if few else None
        return self._beginnings[total]

    def _find_beginning(self, total: int) -> Beginning:
        drawn = re.search(rf"/{total}(?![\w.])", self._text)
        begin = self._begin_of_line(drawn.start()) - 1 if drawn else -1
        if begin < 0:
            return Beginning()
        above = self._text[max(0, begin - _ABOVE) : begin].replace("\r", "\n").split("\n")
        lines = [line for line in map(_plain, reversed(above)) if line.strip()]
        own = list(takewhile(lambda line: not _HEADING.fullmatch(line), lines))
        counts = [
            [count for count in counts_in(line, None, self.find) if count.is_bar or count.shows_loss] for line in own
        ]
        rivals = [count for of_line in counts for count in reversed(of_line) if _may_be_rival(count)]
        trainings = [rival for rival in rivals if rival.shows_loss or rival.is_named_training]
        return Beginning(own[0] if own and not counts[0] else "", next(iter(trainings + rivals), None))

    def _begin_of_line(self, at: int) -> int:
        return max(self._text.rfind(end, 0, at) for end in "\r\n") + 1

    def _line_at(self, at: int) -> str:
        """Return the line at this offset, shortened."""
        begin = max(self._begin_of_line(at), at - _LONGEST_HEADING)
        line = self._text[begin : at + _LONGEST_HEADING].replace("\r", "\n").partition("\n")[0]
        return _plain(line)

    @cached_property
    def _spellings_of_epoch(self) -> list[str]:
        return [epoch for epoch in _SPELLINGS_OF_EPOCH if epoch in self._text]

    @cached_property
    def announced_steps(self) -> int | None:
        """The number of steps that the trainer says it will do; later, samplers may say theirs."""
        totals = islice(_TOTAL_STEPS.finditer(self._text), _MOST_MENTIONS)
        return next((unscaled(total[1]) for total in totals if not self._is_of_other_work(total)), None)

    @cached_property
    def first_epoch(self) -> int:
        """The number of the first epoch: some trainers count from 0, the others from 1."""
        return 0 if any(zero.search(self._text) for zero in _EPOCH_ZERO) else 1

    @cached_property
    def has_epoch_column(self) -> bool:
        return _EPOCH_COLUMN.search(self._text) is not None

    @cached_property
    def has_percent_column(self) -> bool:
        return "(% Done)" in self._text

    def epochs_bar(self, total: int | None) -> tuple[int, int] | None:
        """Return how many epochs are over, and of how many, by the last bar of *total* epochs above this line."""
        bars = ((int(bar[1]), int(bar[2])) for bar in self._epochs_bars if bar.start() < self._at)
        return next((bar for bar in bars if total in (None, bar[1])), None)

    @cached_property
    def _epochs_bars(self) -> list[re.Match[str]]:
        last = islice(reversed(list(_EPOCHS_BAR.finditer(self._text))), _MOST_MENTIONS)
        return [bar for bar in last if not self._is_of_other_work(bar)]

    def _is_of_other_work(self, count: re.Match[str]) -> bool:
        begin = max(self._begin_of_line(count.start()), count.start() - _LONGEST_NAME)
        return names_other_work(_plain(self._text[begin : count.start()]))


def _may_be_rival(count: Count) -> bool:
    return not count.is_of_other_work and not IS_EPOCHS.search(count.before)


def _text(logs: str | list[JsonValue] | None) -> str:
    if isinstance(logs, list):
        return "\n".join(part for part in logs if isinstance(part, str))
    return logs or ""


def _plain(line: str) -> str:
    return _COLOUR.sub("", line) if "\x1b" in line or "\x08" in line else line
