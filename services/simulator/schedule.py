"""
Which webhooks does a training post, and when? Pure.

A webhook tells what was so *as of* a moment, and leaves *at* a moment; when all is well they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.simulator.faults import WebhookEvent
from services.simulator.job import NEVER
from services.simulator.training import Training

#: Replicate tells of new logs at most this often, in simulated seconds.
LOG_INTERVAL_SECONDS: Final = 0.5
#: Between the attempts at a terminal webhook that nobody took. Replicate says "exponential" and "about a minute".
RETRY_DELAYS_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 30.0)


class Due(NamedTuple):
    """One webhook on its way; moments are simulated seconds after the training's creation."""

    at: float
    event: WebhookEvent
    as_of: float

    @property
    def is_on_time(self) -> bool:
        return self.at == self.as_of


def webhooks(training: Training, *, log_interval_seconds: float = LOG_INTERVAL_SECONDS) -> Iterator[Due]:
    """All webhooks of *training* that its owner asked for, in the order in which they leave."""
    for due in _in_order(training, log_interval_seconds):
        if due.event in training.events and due.event not in training.faults.drop:
            yield due


def terminal_webhook(training: Training) -> Due:
    """The webhook that says how *training* ended."""
    end = training.life.ends
    return Due(end + training.faults.late_seconds, WebhookEvent.COMPLETED, end)


def message_id(training: Training, due: Due) -> str:
    """The webhook-id: the same for every attempt at the same webhook."""
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
    """Every *interval_seconds*, if something was written since."""
    told = 0
    moment = training.life.starts
    while moment < training.life.ends:
        written = training.log_position(moment)
        if written != told:
            told = written
            yield moment
        moment += interval_seconds


def _overtaken(training: Training) -> Iterator[Due]:
    """Youngest first, so that nothing is where it belongs."""
    if not training.life.runs:
        return
    yield Due(training.last_moment, WebhookEvent.LOGS, training.last_moment)
    if training.weights_at < training.life.ends:
        yield Due(training.weights_at, WebhookEvent.OUTPUT, training.weights_at)
    yield Due(training.life.starts, WebhookEvent.START, training.life.starts)
