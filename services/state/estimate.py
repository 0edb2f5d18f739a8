"""
How far is a training, and how long will it take? Pure: what its log said, or a guess from the time that passed.

A guess knows how long the last trainings of the same trainer took; where none are known, half an hour is 90 percent.
What was shown once is never taken back: a log that turns out to be behind the guess has to catch up with it first.
Only where a log contradicts itself is its own share corrected (`store._RECORD_PROGRESS`); a guess that was shown stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.state.transitions import Stage
from shared.contract.envelope import Envelope
from shared.contract.events import ProgressSource, TrainingProgressed

#: 100 is said by a swap only.
MOST: Final = 99
#: From so many trainings of a trainer on, something is learned of it.
LEARN_FROM: Final = 5

#: A guess never comes closer to the end than this …
_GUESS_CAP: Final = 95.0
#: … and has come to this when most trainings have ended …
_GUESS_USUAL: Final = 90.0
#: … which is half an hour where nothing is learned.
_GUESS_SECONDS: Final = 611.0
#: Below this a log says too little to tell how long the rest will take.
_ETA_FROM: Final = 3
#: A log's pace is never more exact than this share of the rest, and by that much less at the beginning.
_PACE_EXACT: Final = 0.1
_PACE_UNSURE: Final = 0.4
#: Trainings that all took the same do not promise that the next one will.
_LEAST_SPREAD: Final = 0.1
#: A start that is further off from what we saw ourselves is a wrong date.
_FAR_OFF: Final = timedelta(days=1)
#: What ended just now may still be on its way to us.
_ON_ITS_WAY_SECONDS: Final = 60.0

_DONE: Final = (Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED)
_SUCCEEDED: Final = (Stage.VERIFYING, Stage.UNVERIFIED)
_UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING)


@dataclass(frozen=True, slots=True)
class Learned:
    """How many seconds the last trainings of a trainer took: eight of ten lie between low and high."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """By how much a training may well exceed the median."""
        return max(self.high - self.median, _LEAST_SPREAD * self.median)

    @property
    def surely_over(self) -> float:
        """After this a training that has not ended is worth a question."""
        return self.median + self.spread + max(self.spread, self.median / 2) + _ON_ITS_WAY_SECONDS


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a training's time."""

    stage: Stage
    requested_at: datetime
    started_at: datetime | None = None
    #: What its log said last, and when.
    percent: int | None = None
    source: ProgressSource | None = None
    reported_at: datetime | None = None
    #: The furthest guess that anybody was shown.
    shown: int = 0
    #: None while too few trainings of its trainer have ended, or nobody said who trains.
    learned: Learned | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a training's log said last."""

    training_id: str
    ref: UUID | None
    step: int | None
    total: int | None
    percent: int | None
    source: ProgressSource
    at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """What a user is shown."""

    percent: int
    #: None where nothing is guessed or read, because the training has not begun or is over.
    source: ProgressSource | None = None
    #: How long the rest takes; None where nothing tells.
    eta_seconds: int | None = None
    #: Eight of ten times it is between these. No high one: it takes longer than was to be expected.
    eta_low_seconds: int | None = None
    eta_high_seconds: int | None = None
    #: When it should surely have ended; None where nothing is learned, or it has.
    overdue_at: datetime | None = None


class _Rest(NamedTuple):
    """For how many seconds a training still runs; below zero where it should have ended."""

    low: float
    middle: float
    high: float


def latest(envelopes: Iterable[Envelope]) -> list[Report]:
    """The furthest report of each training."""
    furthest: dict[str, Report] = {}
    for envelope in envelopes:
        if isinstance(envelope.event, TrainingProgressed):
            report = _report(envelope.event, envelope.time)
            known = furthest.get(report.training_id)
            if known is None or _distance(known) <= _distance(report):
                furthest[report.training_id] = report
    return list(furthest.values())


def progress(run: Run, *, now: datetime) -> Progress:
    """What to show of *run* at *now*."""
    if run.stage in _DONE:
        return Progress(100)
    if run.stage in _SUCCEEDED:
        return Progress(MOST)
    percent, source = _percent(run, now)
    rest = _rest(run, now) if run.stage == Stage.RUNNING else None
    overdue_at = _overdue_at(run, now)
    if rest is None:
        return Progress(percent, source, overdue_at=overdue_at)
    return Progress(
        percent,
        source,
        eta_seconds=max(0, round(rest.middle)),
        eta_low_seconds=max(0, math.floor(rest.low)),
        eta_high_seconds=math.ceil(rest.high) if rest.high > 0 else None,
        overdue_at=overdue_at,
    )


def _percent(run: Run, now: datetime) -> tuple[int, ProgressSource | None]:
    if run.percent is not None:
        known, source = min(run.percent, MOST), run.source
    elif run.stage == Stage.RUNNING:
        known, source = _guess(run, now), ProgressSource.ESTIMATE
    else:
        known, source = 0, None
    return (run.shown, ProgressSource.ESTIMATE) if run.shown > known else (known, source)


def _guess(run: Run, now: datetime) -> int:
    seconds = _seconds_of(run, now)
    if seconds is None:
        return 0
    if run.learned is None:
        return int(_GUESS_CAP * _saturated(seconds / _GUESS_SECONDS))
    if seconds < run.learned.median:
        return int(_GUESS_USUAL * seconds / run.learned.median)
    over = (seconds - run.learned.median) / run.learned.spread
    return int(_GUESS_USUAL + (_GUESS_CAP - _GUESS_USUAL) * _saturated(over))


def _saturated(time: float) -> float:
    """From 0 towards 1."""
    return 1 - math.exp(-time)


def _rest(run: Run, now: datetime) -> _Rest | None:
    """The log's pace says the more, the further the training is; before that, what is learned does."""
    paced, learned = _paced(run, now), _expected(run, now)
    if paced is None or learned is None:
        return paced or learned
    weight = (run.percent or 0) / 100
    return _Rest(*(weight * one + (1 - weight) * other for one, other in zip(paced, learned, strict=True)))


def _paced(run: Run, now: datetime) -> _Rest | None:
    """By how long the training took to come as far as its log says."""
    begun_at = _begun_at(run, now)
    if run.percent is None or run.reported_at is None or begun_at is None:
        return None
    took = (run.reported_at - begun_at).total_seconds()
    if run.percent < _ETA_FROM or took <= 0:
        return None
    left = took * (100 - run.percent) / run.percent
    unsure = _PACE_EXACT + _PACE_UNSURE * (1 - run.percent / 100)
    silent = max(0.0, (now - run.reported_at).total_seconds())
    return _Rest(left * (1 - unsure) - silent, left - silent, left * (1 + unsure) - silent)


def _expected(run: Run, now: datetime) -> _Rest | None:
    """By how long others of its trainer took; with a log, only as long as that is still to be expected."""
    seconds = _seconds_of(run, now)
    if run.learned is None or seconds is None:
        return None
    high = run.learned.median + run.learned.spread - seconds
    if high <= 0 and run.percent is not None:
        return None
    low = min(run.learned.low, run.learned.median * (1 - _LEAST_SPREAD)) - seconds
    # Whoever has exceeded the median is not done at once: half of what may be left, then.
    return _Rest(low, max(run.learned.median - seconds, high / 2), high)


def _overdue_at(run: Run, now: datetime) -> datetime | None:
    if run.learned is None or run.stage not in _UNDERWAY:
        return None
    return (_begun_at(run, now) or run.requested_at) + timedelta(seconds=run.learned.surely_over)


def _seconds_of(run: Run, now: datetime) -> float | None:
    begun_at = _begun_at(run, now)
    return None if begun_at is None else max(0.0, (now - begun_at).total_seconds())


def _begun_at(run: Run, now: datetime) -> datetime | None:
    """When it started; if that is a wrong date, when we heard of it."""
    if run.started_at is None:
        return None
    is_credible = run.requested_at - _FAR_OFF <= run.started_at <= now + _FAR_OFF
    return run.started_at if is_credible else run.requested_at


def _report(event: TrainingProgressed, at: datetime) -> Report:
    percent = None if event.fraction is None else min(MOST, int(event.fraction * 100))
    return Report(event.training_id, event.ref, event.step, event.total, percent, event.source, at)


def _distance(report: Report) -> tuple[int, int]:
    return (-1 if report.percent is None else report.percent, -1 if report.step is None else report.step)
