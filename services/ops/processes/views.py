"""Answers of the API about processes and queues. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel

from shared.contract.health import ProcessState
from shared.contract.queues import Queue
from shared.contract.topology import DEAD_QUEUE


class QueueKind(StrEnum):
    """What a queue is for."""

    WORK = "work"  #: Events to be handled; none is lost.
    LOSSY = "lossy"  #: Events that may be lost, and never hold up others.
    DEAD = "dead"  #: Messages that failed, on their way into the dead letters.
    DELAY = "delay"  #: Messages that wait for their next attempt.
    LOG = "log"  #: Every public event of the last days, read and not removed.


class Source(StrEnum):
    """Where the counts of queues are from."""

    MANAGEMENT = "management"  #: RabbitMQ's management API, up to five seconds old.
    AMQP = "amqp"  #: RabbitMQ itself, without rates and unacknowledged messages.
    NONE = "none"  #: RabbitMQ could not be asked.


class ProcessView(BaseModel):
    """A process, as one of its instances says."""

    name: str
    #: Where it was asked; null: it is the one that answers.
    address: str | None
    state: ProcessState
    #: What was found, in a sentence.
    detail: str
    #: What to do about it; empty: nothing.
    then: str
    #: Null if it did not say.
    version: str | None
    #: For each check ``ok``, or what is wrong.
    checks: Mapping[str, str]
    #: For each loop that has set items aside, how many.
    set_aside: Mapping[str, str]


class Processes(BaseModel):
    """Every process of modelswap."""

    at: datetime
    #: The version of the process that answers.
    version: str
    processes: Sequence[ProcessView]


class QueueView(BaseModel):
    """A queue. A field that is null is not known, or does not apply."""

    name: str
    kind: QueueKind
    #: The process that consumes it.
    process: str | None
    #: How many messages wait; in a log, how many it keeps.
    ready: int | None
    #: How many are being handled.
    unacked: int | None
    consumers: int | None
    #: Age of the oldest message that is being handled; those that wait are younger. Without a consumer: of the oldest
    #: that waits, to half a minute, if it came since this process runs.
    oldest_seconds: float | None
    #: Messages a second that arrive, and that are done with.
    publish_rate: float | None
    ack_rate: float | None
    #: Why its messages are not handled now; null: they are.
    paused: str | None
    #: What an operator should look at; null: nothing.
    problem: str | None


class Queues(BaseModel):
    """Every queue of modelswap."""

    at: datetime
    source: Source
    #: Why less is known than could be, and what to do; empty: nothing is missing.
    trouble: str
    queues: Sequence[QueueView]


def kind_of(queue: Queue, delays: frozenset[str]) -> QueueKind:
    """Return what *queue* is for; *delays* are the names of the delay queues."""
    if queue.is_log:
        return QueueKind.LOG
    if queue.is_lossy:
        return QueueKind.LOSSY
    if queue.name == DEAD_QUEUE:
        return QueueKind.DEAD
    return QueueKind.DELAY if queue.name in delays else QueueKind.WORK
