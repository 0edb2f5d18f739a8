"""
Schedule of a training's webhooks. Pure.

A webhook reports the state *as of* one time, and is posted *at* another; without faults they are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.simulator.faults import WebhookEvent
from services.simulator.job import NEVER
from services.simulator.training import Training

#: Minimum time between logs webhooks, in simulated seconds.
LOG_INTERVAL_SECONDS: Final = 0.5
#: Delays between attempts of a failed terminal webhook. Replicate documents "exponential" and "about a minute".
RETRY_DELAYS_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 30.0)


class Due(NamedTuple):
    """One scheduled webhook; times are simulated seconds after the training's creation."""

    at: float
    event: WebhookEvent
    as_of: float

    @property
    def is_on_time(self) -> bool:
        return self.at == self.as_of


def webhooks(training: Training, *, log_interval_seconds: float = LOG_INTERVAL_SECONDS) -> Iterator[Due]:
    """Yield all requested webhooks of *training*, in the order of posting."""
    for due in _in_order(training, log_interval_seconds):
        if due.event in training.events and due.event not in training.faults.drop:
            yield due


def terminal_webhook(training: Training) -> Due:
    """Return the webhook that reports the end of *training*."""
    end = training.life.ends
    return Due(end + training.faults.late_seconds, WebhookEvent.COMPLETED, end)


def message_id(training: Training, due: Due) -> str:
    """Return the webhook-id, which is the same for every attempt of a webhook."""
    return "msg_" + hashlib.sha256(f"{training.id}:{due.event}:{due.as_of}".encode()).hexdigest()[:27]


def _in_order(training: Training, log_interval_seconds: float) -> Iterator[Due]:
    faults = training.faults
    terminal = terminal_webhook(training)
    if faults.reorder:
        yield terminal
        yield from (due._replace(at=terminal.at) for due in _overtaken(training))
    else:
        yield from _before_the_end(training, log_interval_seconds)
        yield terminal
    if faults.late_logs_seconds and training.life.runs:
        yield Due(terminal.at + faults.late_logs_seconds, WebhookEvent.LOGS, training.last_moment)


def _before_the_end(training: Training, log_interval_seconds: float) -> Iterator[Due]:
    start, output, end = training.life.starts, training.weights_at, training.life.ends
    if not training.life.runs:
        return
    yield Due(start, WebhookEvent.START, start)
    if WebhookEvent.LOGS in training.events:
        for at in _log_moments(training, log_interval_seconds):
            if output <= at:
                yield Due(output, WebhookEvent.OUTPUT, output)
                output = NEVER
            yield Due(at, WebhookEvent.LOGS, at)
    if output < end:
        yield Due(output, WebhookEvent.OUTPUT, output)


def _log_moments(training: Training, interval_seconds: float) -> Iterator[float]:
    """Yield a time every *interval_seconds* if the log has grown since."""
    told = 0
    moment = training.life.starts
    while moment < training.life.ends:
        written = training.log_position(moment)
        if written != told:
            told = written
            yield moment
        moment += interval_seconds


def _overtaken(training: Training) -> Iterator[Due]:
    """Yield the webhooks before the end, latest first."""
    if not training.life.runs:
        return
    yield Due(training.last_moment, WebhookEvent.LOGS, training.last_moment)
    if training.weights_at < training.life.ends:
        yield Due(training.weights_at, WebhookEvent.OUTPUT, training.weights_at)
    yield Due(training.life.starts, WebhookEvent.START, training.life.starts)
