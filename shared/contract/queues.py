"""
The kinds of queues, with the arguments of each. Pure: `topology` says which queue is of which kind.

Every limit is explicit and positive: unset and -1 lose messages on one version of RabbitMQ or another.

*Quorum queues* (work, spilling, delay, dead) have a replica on three nodes of a cluster (RabbitMQ's default) or on as
many as the setting `queue_replicas` says, and work while most of these live. With the setting, leaders are spread over
the nodes; without it, each is on the node where it was declared.

*The lossy queue* is on one node only: a report of progress is not worth a majority. While that node is down, RabbitMQ
answers a declare or a consume of it after 64 s, with an error.

*The events log* is a stream: it keeps every public event for a while, however often it is read. It has a replica on
every node that was in the cluster when it was made, or on as many as the setting says; it takes events while most of
them live. Its limits are set when it is made, and RabbitMQ refuses a declare with other limits. So only state and
`modelswap topology apply` declare it (`shared.runtime.broker.events_log`), and no process fails because of it.
RabbitMQ converts the headers of what it stores there. It cannot convert a decimal, and closes the connection of the
publisher with INTERNAL_ERROR (seen with 4.3.6, 2026-11; of the types that clients write, with this one alone). Our
processes give public events headers of text only.

RabbitMQ compares the arguments of a declare, placement included, with those of the existing queue. We accept an
existing queue wherever it is placed (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

#: Ends crash loops; retries are counted by `x-attempt`. RabbitMQ counts each lost connection and each ack timeout (half
#: an hour), so an outage of two days must not reach this limit.
DELIVERY_LIMIT: Final = 100
#: Out of reach: a dead letter that is fetched and returned many times must not be dropped.
_DEAD_DELIVERY_LIMIT: Final = 1_000_000
_MAX_LENGTH: Final = 100_000
_PROGRESS_MAX_LENGTH: Final = 10_000
_PROGRESS_TTL: Final = timedelta(minutes=10)
#: RabbitMQ deletes whole segments of a stream, never the newest one: this many make up the log's largest size.
_LOG_SEGMENTS: Final = 20
_LARGEST_SEGMENT_BYTES: Final = 100_000_000
#: The argument with the number of replicas, by the type of a queue. A classic one has none, and RabbitMQ 3.10 takes no
#: other placement of it: it is on the node that state is connected to when it makes it, a random one of several.
_REPLICAS: Final = {"quorum": "x-quorum-initial-group-size", "stream": "x-initial-cluster-size"}
_LEADER: Final = "x-queue-leader-locator"
PLACEMENT: Final = (*_REPLICAS.values(), _LEADER)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of the past the events log keeps: what is older, or more, is deleted, oldest segment first."""

    max_age_days: int = 7
    max_bytes: int = 1_000_000_000


LOG_LIMITS: Final = LogLimits()


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare."""

    name: str
    arguments: Mapping[str, str | int]
    #: Arguments that say where in a cluster RabbitMQ makes it. One that exists stays where it is.
    placement: Mapping[str, str | int] = field(default_factory=dict)
    #: True if its messages may be lost. Durable queues and their messages never wait for such a queue.
    is_lossy: bool = False

    @property
    def is_log(self) -> bool:
        """Whether it is the events log, which no process needs in order to work."""
        return self.arguments.get("x-queue-type") == "stream"


def placed(queue: Queue, replicas: int | None) -> Queue:
    """Return *queue* with so many *replicas*, led by the node that leads the fewest; as it is, if that is None."""
    argument = _REPLICAS.get(str(queue.arguments["x-queue-type"]))
    if replicas is None or argument is None:
        return queue
    return replace(queue, placement={argument: replicas, _LEADER: "balanced"})


def work_queue(name: str, *, dead_exchange: str) -> Queue:
    """Return a queue of events; the broker sends what it gives up to *dead_exchange*."""
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": dead_exchange,
            "x-dead-letter-routing-key": name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-max-length": _MAX_LENGTH,
        },
    )


def spilling_queue(name: str, *, dead_exchange: str) -> Queue:
    """Return a queue of events whose oldest become dead letters when it is full."""
    # A full queue must not hold up the delay queues, whose messages return to it. RabbitMQ dead-letters at most once,
    # with this overflow.
    arguments = {**work_queue(name, dead_exchange=dead_exchange).arguments, "x-overflow": "drop-head"}
    del arguments["x-dead-letter-strategy"]
    return Queue(name, arguments)


def delay_queue(name: str, delay: timedelta) -> Queue:
    """Return a queue that holds each message for *delay*."""
    # No dead-letter routing key: the message keeps its own, which names the queue to return to.
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-message-ttl": round(delay / timedelta(milliseconds=1)),
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-max-length": _MAX_LENGTH,
        },
    )


def dead_queue(name: str) -> Queue:
    """Return the queue of dead letters."""
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DEAD_DELIVERY_LIMIT,
            "x-overflow": "reject-publish",
            "x-max-length": _MAX_LENGTH,
        },
    )


def lossy_queue(name: str) -> Queue:
    """Return a queue of progress: its oldest messages are dropped when it is full."""
    return Queue(
        name,
        {
            "x-queue-type": "classic",
            "x-max-length": _PROGRESS_MAX_LENGTH,
            "x-overflow": "drop-head",
            "x-message-ttl": round(_PROGRESS_TTL / timedelta(milliseconds=1)),
        },
        is_lossy=True,
    )


def log_queue(name: str, limits: LogLimits) -> Queue:
    """Return a stream."""
    return Queue(
        name,
        {
            "x-queue-type": "stream",
            "x-max-age": f"{limits.max_age_days}D",
            "x-max-length-bytes": limits.max_bytes,
            "x-stream-max-segment-size-bytes": min(limits.max_bytes // _LOG_SEGMENTS, _LARGEST_SEGMENT_BYTES),
        },
    )
