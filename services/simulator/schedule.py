"""
Schedule of the webhooks of a training or a prediction (a job). Pure.

A webhook reports the state *as of* one time, and is posted *at* another; without faults they are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.simulator.faults import WebhookEvent
from services.simulator.job import NEVER
from services.simulator.prediction import Prediction
from services.simulator.training import Training

#: Minimum time between logs webhooks, in simulated seconds.
LOG_INTERVAL_SECONDS: Final = 0.5
#: Delays between attempts of a failed terminal webhook. Replicate documents "exponential" and "about a minute".
RETRY_DELAYS_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 30.0)


class Due(NamedTuple):
    """One scheduled webhook; times are simulated seconds after the job's creation."""

    at: float
    event: WebhookEvent
    as_of: float

    @property
    def is_on_time(self) -> bool:
        return self.at == self.as_of


def webhooks(job: Training | Prediction, *, log_interval_seconds: float = LOG_INTERVAL_SECONDS) -> Iterator[Due]:
    """Yield all requested webhooks of *job*, in the order of posting."""
    for due in _in_order(job, log_interval_seconds):
        if due.event in job.events and due.event not in job.faults.drop:
            yield due


def message_id(job: Training | Prediction, due: Due) -> str:
    """Return the webhook-id, which is the same for every attempt of a webhook."""
    return "msg_" + hashlib.sha256(f"{job.id}:{due.event}:{due.as_of}".encode()).hexdigest()[:27]


def _in_order(job: Training | Prediction, log_interval_seconds: float) -> Iterator[Due]:
    faults = job.faults
    terminal = Due(job.life.ends + faults.late_seconds, WebhookEvent.COMPLETED, job.life.ends)
    if faults.reorder:
        yield terminal
        yield from (due._replace(at=terminal.at) for due in _overtaken(job))
    else:
        yield from _before_the_end(job, log_interval_seconds)
        yield terminal
    if faults.late_logs_seconds and job.life.runs:
        yield Due(terminal.at + faults.late_logs_seconds, WebhookEvent.LOGS, job.last_moment)


def _before_the_end(job: Training | Prediction, log_interval_seconds: float) -> Iterator[Due]:
    start, output, end = job.life.starts, job.output_at, job.life.ends
    if not job.life.runs:
        return
    yield Due(start, WebhookEvent.START, start)
    if WebhookEvent.LOGS in job.events:
        for at in _log_moments(job, log_interval_seconds):
            if output <= at:
                yield Due(output, WebhookEvent.OUTPUT, output)
                output = NEVER
            yield Due(at, WebhookEvent.LOGS, at)
    if output < end:
        yield Due(output, WebhookEvent.OUTPUT, output)


def _log_moments(job: Training | Prediction, interval_seconds: float) -> Iterator[float]:
    """Yield a time every *interval_seconds* if the log has grown since."""
    reported = 0
    moment = job.life.starts
    while moment < job.life.ends:
        written = job.log_position(moment)
        if written != reported:
            reported = written
            yield moment
        moment += interval_seconds


def _overtaken(job: Training | Prediction) -> Iterator[Due]:
    """Yield the webhooks before the end, latest first."""
    if not job.life.runs:
        return
    yield Due(job.last_moment, WebhookEvent.LOGS, job.last_moment)
    if job.output_at < job.life.ends:
        yield Due(job.output_at, WebhookEvent.OUTPUT, job.output_at)
    yield Due(job.life.starts, WebhookEvent.START, job.life.starts)
