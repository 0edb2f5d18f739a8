"""How far is a training, and how long will it take? Pure: what its log said, or a guess from the time that passed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.state.transitions import Stage
from shared.contract.envelope import Envelope
from shared.contract.events import ProgressSource, TrainingProgressed

#: 100 is said by a swap only.
MOST: Final = 99
#: A guess never comes closer to the end than this …
_GUESS_CAP: Final = 95.0
#: … and has come to 90 after half an hour.
_GUESS_SECONDS: Final = 611.0
#: Below this a log says too little to tell how long the rest will take.
_ETA_FROM: Final = 3

_DONE: Final = (Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED)
_SUCCEEDED: Final = (Stage.VERIFYING, Stage.UNVERIFIED)


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
    source: ProgressSource | None
    eta_seconds: int | None


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


def progress(
    stage: Stage,
    *,
    percent: int | None,
    source: ProgressSource | None,
    started_at: datetime | None,
    reported_at: datetime | None,
    now: datetime,
) -> Progress:
    """What to show at *now* of a training in *stage* whose log said *percent* at *reported_at*."""
    if stage in _DONE:
        return Progress(100, None, None)
    if stage in _SUCCEEDED:
        return Progress(MOST, None, None)
    if stage != Stage.RUNNING:
        return Progress(percent or 0, source, None)
    if percent is None or reported_at is None:
        return Progress(_guess(started_at, now), ProgressSource.ESTIMATE, None)
    return Progress(min(percent, MOST), source, _eta_seconds(percent, started_at, reported_at, now))


def _guess(started_at: datetime | None, now: datetime) -> int:
    if started_at is None:
        return 0
    seconds = max(0.0, (now - started_at).total_seconds())
    return int(_GUESS_CAP * (1 - math.exp(-seconds / _GUESS_SECONDS)))


def _eta_seconds(percent: int, started_at: datetime | None, reported_at: datetime, now: datetime) -> int | None:
    if percent < _ETA_FROM or started_at is None or reported_at <= started_at:
        return None
    took = (reported_at - started_at).total_seconds()
    left = took * (100 - percent) / percent - (now - reported_at).total_seconds()
    return max(0, round(left))


def _report(event: TrainingProgressed, at: datetime) -> Report:
    percent = None if event.fraction is None else min(MOST, int(event.fraction * 100))
    return Report(event.training_id, event.ref, event.step, event.total, percent, event.source, at)


def _distance(report: Report) -> tuple[int, int]:
    return (-1 if report.percent is None else report.percent, -1 if report.step is None else report.step)
