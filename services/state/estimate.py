"""
Progress and time left of a training: what its log reported, or an estimate from the time that passed. Pure.

The estimate uses how long the last trainings of the same trainer took, as known when this one started; if unknown, half
an hour is 90 percent. It only depends on columns that never change while it is used, so it never falls. When a log
arrives, the estimate is frozen (`estimated_until`), and the log's share counts as soon as it is greater. Only if a log
contradicts itself is its own share corrected (`store.progress`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.state.transitions import AT_REPLICATE, Stage
from shared.contract.envelope import Envelope
from shared.contract.events import TrainingProgressed
from shared.contract.values import ProgressSource

#: Cap for progress before the model is current.
MOST: Final = 99
#: Fewer trainings of a trainer give no statistics.
MIN_TRAININGS: Final = 5

#: Cap for the estimate.
_ESTIMATE_CAP: Final = 95.0
#: The estimate when most trainings have ended …
_ESTIMATE_USUAL: Final = 90.0
#: … which is after half an hour without statistics.
_ESTIMATE_SECONDS: Final = 611.0
#: Below this percentage a log is no basis for the time left.
_ETA_FROM: Final = 3
#: Relative error of the time left by a log's pace: at the end, and what is added to it at the beginning.
_PACE_EXACT: Final = 0.1
_PACE_UNSURE: Final = 0.4
#: Least spread of durations, relative to the median.
_LEAST_SPREAD: Final = 0.1
#: A start that is further off from the request is a wrong date.
_FAR_OFF: Final = timedelta(days=1)
#: Allowance for the delivery of the last webhook.
_DELIVERY_SECONDS: Final = 60.0

_DONE: Final = (Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED)
_SUCCEEDED: Final = (Stage.VERIFYING, Stage.UNVERIFIED)


@dataclass(frozen=True, slots=True)
class DurationStats:
    """Seconds that the last trainings of a trainer took: 10th, 50th and 90th percentile."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """Time by which a training may exceed the median."""
        return max(self.high - self.median, _LEAST_SPREAD * self.median)

    @property
    def surely_over(self) -> float:
        """Time after which a training is overdue."""
        return self.median + self.spread + max(self.spread, self.median / 2) + _DELIVERY_SECONDS


@dataclass(frozen=True, slots=True)
class Run:
    """Columns of a training that its progress depends on."""

    stage: Stage
    requested_at: datetime
    started_at: datetime | None = None
    #: The log's share so far, and when it was reported.
    log_percent: int | None = None
    log_source: ProgressSource | None = None
    log_at: datetime | None = None
    #: When a log or its end replaced the estimate.
    estimated_until: datetime | None = None
    #: Of its trainer when it started; None if unknown.
    stats_at_start: DurationStats | None = None
    #: Of its trainer now.
    stats: DurationStats | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Progress reported by a training's log."""

    training_id: str
    claimed_ref: UUID | None
    step: int | None
    total: int | None
    percent: int | None
    source: ProgressSource
    at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """The computed fields of a `TrainingView`, by their names."""

    progress: int
    progress_source: ProgressSource | None = None
    eta_seconds: int | None = None
    eta_low_seconds: int | None = None
    eta_high_seconds: int | None = None
    overdue_at: datetime | None = None


class _Rest(NamedTuple):
    """Seconds left; negative if the training should have ended."""

    low: float
    middle: float
    high: float


def latest(envelopes: Iterable[Envelope]) -> list[Report]:
    """Return the furthest report of each training."""
    furthest: dict[str, Report] = {}
    for envelope in envelopes:
        if isinstance(envelope.event, TrainingProgressed):
            report = _report(envelope.event, envelope.time)
            known = furthest.get(report.training_id)
            if known is None or _distance(known) <= _distance(report):
                furthest[report.training_id] = report
    return list(furthest.values())


def progress(run: Run, *, now: datetime) -> Progress:
    """Return the progress of *run* at *now*."""
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
    is_estimated = run.estimated_until is not None or (run.stage == Stage.RUNNING and run.log_percent is None)
    estimate = _estimate(run, min(now, run.estimated_until or now)) if is_estimated else 0
    if run.log_percent is not None and run.log_percent >= estimate:
        return min(run.log_percent, MOST), run.log_source
    return (estimate, ProgressSource.ESTIMATE) if is_estimated else (0, None)


def _estimate(run: Run, now: datetime) -> int:
    seconds = _seconds_of(run, now)
    stats = run.stats_at_start
    if seconds is None:
        return 0
    if stats is None:
        return int(_ESTIMATE_CAP * _saturated(seconds / _ESTIMATE_SECONDS))
    if seconds < stats.median:
        return int(_ESTIMATE_USUAL * seconds / stats.median)
    over = (seconds - stats.median) / stats.spread
    return int(_ESTIMATE_USUAL + (_ESTIMATE_CAP - _ESTIMATE_USUAL) * _saturated(over))


def _saturated(time: float) -> float:
    """Rise from 0 towards 1."""
    return 1 - math.exp(-time)


def _rest(run: Run, now: datetime) -> _Rest | None:
    """Weigh the log's pace against the statistics: the further the log, the more its pace counts."""
    paced, expected = _paced(run, now), _expected(run, now)
    if paced is None or expected is None:
        return paced or expected
    weight = (run.log_percent or 0) / 100
    return _Rest(*(weight * one + (1 - weight) * other for one, other in zip(paced, expected, strict=True)))


def _paced(run: Run, now: datetime) -> _Rest | None:
    """Return the time left by the pace of the log."""
    begun_at = _begun_at(run, now)
    if run.log_percent is None or run.log_at is None or begun_at is None:
        return None
    took = (run.log_at - begun_at).total_seconds()
    if run.log_percent < _ETA_FROM or took <= 0:
        return None
    left = took * (100 - run.log_percent) / run.log_percent
    unsure = _PACE_EXACT + _PACE_UNSURE * (1 - run.log_percent / 100)
    silent = max(0.0, (now - run.log_at).total_seconds())
    return _Rest(left * (1 - unsure) - silent, left - silent, left * (1 + unsure) - silent)


def _expected(run: Run, now: datetime) -> _Rest | None:
    """Return the time left by the trainer's statistics; with a log, only while that is positive."""
    seconds = _seconds_of(run, now)
    if run.stats is None or seconds is None:
        return None
    high = run.stats.median + run.stats.spread - seconds
    if high <= 0 and run.log_percent is not None:
        return None
    low = min(run.stats.low, run.stats.median * (1 - _LEAST_SPREAD)) - seconds
    # Past the median: half of the longest time left.
    return _Rest(low, max(run.stats.median - seconds, high / 2), high)


def _overdue_at(run: Run, now: datetime) -> datetime | None:
    if run.stats is None or run.stage not in AT_REPLICATE:
        return None
    return (_begun_at(run, now) or run.requested_at) + timedelta(seconds=run.stats.surely_over)


def _seconds_of(run: Run, now: datetime) -> float | None:
    begun_at = _begun_at(run, now)
    return None if begun_at is None else max(0.0, (now - begun_at).total_seconds())


def _begun_at(run: Run, now: datetime) -> datetime | None:
    """Return when it started, or when it was requested if that date is wrong."""
    if run.started_at is None:
        return None
    is_credible = run.requested_at - _FAR_OFF <= run.started_at <= now + _FAR_OFF
    return run.started_at if is_credible else run.requested_at


def _report(event: TrainingProgressed, at: datetime) -> Report:
    percent = None if event.fraction is None else min(MOST, int(event.fraction * 100))
    return Report(event.training_id, event.ref, event.step, event.total, percent, event.source, at)


def _distance(report: Report) -> tuple[int, int]:
    return (-1 if report.percent is None else report.percent, -1 if report.step is None else report.step)
