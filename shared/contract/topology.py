"""
Exchanges, queues and bindings, as data. Pure: `shared.runtime.broker` declares it, `modelswap topology diff` prints it.

    exchange                queue                                                 exchange          queue

    modelswap.training ─┬─▶ modelswap.extractor ─┐
                        ├─▶ modelswap.state ─────┤  failed for good, or crashed too often
                        ├─▶ modelswap.progress ──┼──────────────────────────────▶ modelswap.dead ─▶ modelswap.dead
                        └─▶ modelswap.ops ───────┤                                   ▲
    modelswap.events ──┬──▶ modelswap.state      │              receiver: a webhook that no event can be made of
                       └──▶ modelswap.events.log │              (a stream: every public event, for subscribers
                                                 │               and for the notifier)
    modelswap.training ───▶ modelswap.deliveries ┤
                                                 └─ retry: published to modelswap.delay.<d> with the queue's own name
                                                    as routing key; on expiry the default exchange brings it back

A work queue dead-letters to `modelswap.dead` only, never into the delays: that would be a cycle without a rejection,
which RabbitMQ drops. Every limit is explicit and positive: unset and -1 lose messages on one version or another.

In a cluster every quorum queue has a replica on three nodes (RabbitMQ's default) or on as many as the setting
`queue_replicas` says, and works while most of these live. With the setting, leaders are spread over the nodes; else
each is on the node where it was declared. The lossy queue is on one node only, on purpose: a report of progress is not
worth a majority. Where that node is down, RabbitMQ answers a declare or a consume of it after 64 s, with an error. So
it is declared and consumed apart from the others. RabbitMQ compares how a queue is declared, its placement included; we
take a queue that exists as it is placed (2026-11).

The events log is a stream: it keeps every public event for a while, however often it is read. It has a replica on every
node that was in the cluster when it was made, or on as many as the setting says; it takes events while most of them
live, as the quorum queues do. Its limits are set when it is made: RabbitMQ refuses a declare with other limits. So it
too is declared apart, by state and by `modelswap topology apply` alone (`shared.runtime.broker.events_log`), and no
process fails because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from shared.contract.events import (
    EVENTS_EXCHANGE,
    PUBLIC_EVENTS,
    TRAINING_EXCHANGE,
    DeliveryRequested,
    Event,
    ExtractionFailed,
    ExtractionRequested,
    ModelReady,
    ModelReverted,
    ReplaySettled,
    TrainingCanceled,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.retry import DELAYS

EXTRACTOR_QUEUE: Final = "modelswap.extractor"
STATE_QUEUE: Final = "modelswap.state"
PROGRESS_QUEUE: Final = "modelswap.progress"
OPS_QUEUE: Final = "modelswap.ops"
#: One message for each delivery to a webhook endpoint.
DELIVERIES_QUEUE: Final = "modelswap.deliveries"
#: Queues of an earlier version: they fill up, as nothing consumes them. What they hold is in the events log.
RETIRED_QUEUES: Final = ("modelswap.notifier",)
DEAD_QUEUE: Final = "modelswap.dead"
#: A stream with every public event.
EVENTS_LOG: Final = "modelswap.events.log"
DEAD_EXCHANGE: Final = "modelswap.dead"
#: Not a queue: the routing key under which the receiver dead-letters webhooks that it cannot translate.
RECEIVER: Final = "modelswap.receiver"

#: Routing keys of dead letters: the queue or service that dead-lettered the message.
_DYING: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE, OPS_QUEUE, DELIVERIES_QUEUE, RECEIVER)
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


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange to declare."""

    name: str
    kind: str


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


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding to declare."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Exchanges, queues and bindings that must exist on the broker; all durable."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    #: Exchange and routing key of every binding, except the log's: without the log, events are published all the same.
    routed: frozenset[tuple[str, str]] = field(init=False)
    #: The subset of `routed` that reaches lossy queues only.
    lost: frozenset[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        lossy = {queue.name for queue in self.queues if queue.is_lossy}
        logs = {queue.name for queue in self.queues if queue.is_log}
        work = [each for each in self.bindings if each.queue not in logs]
        kept = {(each.exchange, each.routing_key) for each in work if each.queue not in lossy}
        object.__setattr__(self, "routed", frozenset((each.exchange, each.routing_key) for each in work))
        object.__setattr__(self, "lost", self.routed - kept)

    @property
    def lasting(self) -> Topology:
        """The topology without the lossy queues and the log."""
        queues = tuple(queue for queue in self.queues if not (queue.is_lossy or queue.is_log))
        return Topology(self.exchanges, queues, self._bindings_of(queues))

    @property
    def lossy(self) -> Topology:
        """The lossy queues with the exchanges they are bound to."""
        return self._part(queue for queue in self.queues if queue.is_lossy)

    @property
    def log(self) -> Topology:
        """The events log with the exchange it is bound to."""
        return self._part(queue for queue in self.queues if queue.is_log)

    def _part(self, chosen: Iterable[Queue]) -> Topology:
        queues = tuple(chosen)
        bindings = self._bindings_of(queues)
        bound = {binding.exchange for binding in bindings}
        return Topology(tuple(each for each in self.exchanges if each.name in bound), queues, bindings)

    def for_consumer_of(self, queue: str) -> Topology:
        """Return the part (`lossy` or `lasting`) with *queue*, which its consumer declares without the other part."""
        return self.lossy if self.may_lose(queue) else self.lasting

    def may_lose(self, queue: str) -> bool:
        """Return whether *queue* is lossy."""
        return any(each.name == queue and each.is_lossy for each in self.queues)

    def loses(self, exchange: str, routing_key: str) -> bool:
        """Return whether a message with this exchange and routing key reaches lossy queues only."""
        return (exchange, routing_key) in self.lost

    def _bindings_of(self, queues: Iterable[Queue]) -> tuple[Binding, ...]:
        names = {queue.name for queue in queues}
        return tuple(binding for binding in self.bindings if binding.queue in names)

    def has_binding(self, event: type[Event]) -> bool:
        """Return whether one of our own queues is bound for *event*; if so, publishing it to no queue is an error."""
        return (event.exchange, event.key) in self.routed


def delay_name(delay: timedelta) -> str:
    """``modelswap.delay.30s``: the exchange, and the queue behind it, that hold a message for *delay*."""
    milliseconds = round(delay / timedelta(milliseconds=1))
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"modelswap.delay.{milliseconds // size}{unit}"
    return f"modelswap.delay.{milliseconds}ms"


def topology(
    delays: Iterable[timedelta] = DELAYS, log_limits: LogLimits = LogLimits(), replicas: int | None = None
) -> Topology:
    """
    Build the whole topology, with one delay queue for each distinct delay.

    With *replicas*, quorum queues and the log are on so many nodes of a cluster, led by the one that leads the fewest.
    """
    levels = sorted(set(delays))
    work: dict[str, tuple[type[Event], ...]] = {
        EXTRACTOR_QUEUE: (TrainingSucceeded, ExtractionRequested),
        STATE_QUEUE: (
            TrainingStarted,
            TrainingSucceeded,
            TrainingFailed,
            TrainingCanceled,
            ModelReady,
            ExtractionFailed,
        ),
        PROGRESS_QUEUE: (TrainingProgressed,),
        OPS_QUEUE: (ReplaySettled, ModelReverted),
        DELIVERIES_QUEUE: (DeliveryRequested,),
    }
    return Topology(
        exchanges=(
            Exchange(TRAINING_EXCHANGE, "topic"),
            Exchange(EVENTS_EXCHANGE, "topic"),
            Exchange(DEAD_EXCHANGE, "direct"),
            *(Exchange(delay_name(delay), "fanout") for delay in levels),
        ),
        queues=tuple(
            replace(queue, placement=_placement(queue, replicas))
            for queue in (
                Queue(DEAD_QUEUE, _dead()),
                _work(EXTRACTOR_QUEUE),
                _work(STATE_QUEUE),
                Queue(PROGRESS_QUEUE, _lossy(), is_lossy=True),
                _work(OPS_QUEUE),
                Queue(EVENTS_LOG, _log(log_limits)),
                _spilling(DELIVERIES_QUEUE),
                *(Queue(delay_name(delay), _delay(delay)) for delay in levels),
            )
        ),
        bindings=(
            *(Binding(event.exchange, queue, event.key) for queue, events in work.items() for event in events),
            *(Binding(EVENTS_EXCHANGE, EVENTS_LOG, event.key) for event in PUBLIC_EVENTS),
            *(Binding(DEAD_EXCHANGE, DEAD_QUEUE, name) for name in _DYING),
            *(Binding(delay_name(delay), delay_name(delay), "") for delay in levels),
        ),
    )


def _placement(queue: Queue, replicas: int | None) -> dict[str, str | int]:
    argument = _REPLICAS.get(str(queue.arguments["x-queue-type"]))
    return {} if replicas is None or argument is None else {argument: replicas, _LEADER: "balanced"}


def _work(name: str) -> Queue:
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_EXCHANGE,
            "x-dead-letter-routing-key": name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-max-length": _MAX_LENGTH,
        },
    )


def _spilling(name: str) -> Queue:
    # A full queue must not hold up the delay queues, whose messages return to it: its oldest ones become dead letters.
    # RabbitMQ does that at most once, with this overflow.
    arguments = {**_work(name).arguments, "x-overflow": "drop-head"}
    del arguments["x-dead-letter-strategy"]
    return Queue(name, arguments)


def _delay(delay: timedelta) -> dict[str, str | int]:
    # No dead-letter routing key: the message keeps its own, which names the queue to return to.
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": round(delay / timedelta(milliseconds=1)),
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-max-length": _MAX_LENGTH,
    }


def _dead() -> dict[str, str | int]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": _DEAD_DELIVERY_LIMIT,
        "x-overflow": "reject-publish",
        "x-max-length": _MAX_LENGTH,
    }


def _lossy() -> dict[str, str | int]:
    return {
        "x-queue-type": "classic",
        "x-max-length": _PROGRESS_MAX_LENGTH,
        "x-overflow": "drop-head",
        "x-message-ttl": round(_PROGRESS_TTL / timedelta(milliseconds=1)),
    }


def _log(limits: LogLimits) -> dict[str, str | int]:
    return {
        "x-queue-type": "stream",
        "x-max-age": f"{limits.max_age_days}D",
        "x-max-length-bytes": limits.max_bytes,
        "x-stream-max-segment-size-bytes": min(limits.max_bytes // _LOG_SEGMENTS, _LARGEST_SEGMENT_BYTES),
    }
