"""
Exchanges, queues and bindings, as data. Pure: `shared.runtime.broker` declares it, `modelswap topology diff` prints it.

    modelswap.training ─┬─▶ modelswap.extractor ─┐
                        ├─▶ modelswap.state ─────┤  gave up, or crashed too often
                        ├─▶ modelswap.progress ──┼──────────────────────────────▶ modelswap.dead ─▶ modelswap.dead
                        └─▶ modelswap.ops ───────┤
    modelswap.events ─────▶ modelswap.state      │
                                                 └─ retry: published to modelswap.delay.<d> with the queue's own name
                                                    as routing key; on expiry the default exchange brings it back

A work queue dead-letters to `modelswap.dead` only, never into the delays: that would be a cycle without a rejection,
which RabbitMQ drops. Every limit is explicit and positive: unset and -1 lose messages on one version or another.

In a cluster every quorum queue has a replica on three nodes (RabbitMQ's default), and works while two of them live. The
lossy queue is on one node only: where that is down, RabbitMQ answers a declare or a consume of it after 64 s, with an
error. So it is declared and consumed apart from the others (2026-11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from shared.contract.events import (
    EVENTS_EXCHANGE,
    TRAINING_EXCHANGE,
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
DEAD_QUEUE: Final = "modelswap.dead"
DEAD_EXCHANGE: Final = "modelswap.dead"
#: Not a queue: under this name the receiver sets webhooks aside that it can not map.
RECEIVER: Final = "modelswap.receiver"

#: Where a message can be when it is given up.
_DYING: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE, OPS_QUEUE, RECEIVER)
#: A fuse against crash loops, not a retry counter (`x-attempt` is that). RabbitMQ counts a lost connection, and half an
#: hour in a consumer's hands: an outage of two days must not reach it.
DELIVERY_LIMIT: Final = 100
#: More hands than anybody has: looking at a dead letter must not use it up.
_DEAD_DELIVERY_LIMIT: Final = 1_000_000
_MAX_LENGTH: Final = 100_000
_PROGRESS_MAX_LENGTH: Final = 10_000
_PROGRESS_TTL: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are published to."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Where messages wait."""

    name: str
    arguments: Mapping[str, str | int]
    #: May its messages be lost? Then nothing that must not be lost ever waits for it.
    is_lossy: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Which messages of an exchange a queue gets."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """What must exist on the broker; all of it durable."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    #: Exchange and routing key of each binding.
    routed: frozenset[tuple[str, str]] = field(init=False)
    #: Those of them that only lossy queues are bound with.
    lost: frozenset[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        lossy = {queue.name for queue in self.queues if queue.is_lossy}
        kept = {(each.exchange, each.routing_key) for each in self.bindings if each.queue not in lossy}
        object.__setattr__(self, "routed", frozenset((b.exchange, b.routing_key) for b in self.bindings))
        object.__setattr__(self, "lost", self.routed - kept)

    @property
    def lasting(self) -> Topology:
        """All but the lossy queues: what a process needs to keep what must not be lost."""
        queues = tuple(queue for queue in self.queues if not queue.is_lossy)
        return Topology(self.exchanges, queues, self._bindings_of(queues))

    @property
    def lossy(self) -> Topology:
        """The lossy queues, and the exchanges that they are bound to."""
        queues = tuple(queue for queue in self.queues if queue.is_lossy)
        bindings = self._bindings_of(queues)
        bound = {binding.exchange for binding in bindings}
        return Topology(tuple(each for each in self.exchanges if each.name in bound), queues, bindings)

    def for_consumer_of(self, queue: str) -> Topology:
        """The part that *queue* belongs to: its consumer does not wait for the other part."""
        return self.lossy if self.may_lose(queue) else self.lasting

    def may_lose(self, queue: str) -> bool:
        """Is *queue* a lossy one?"""
        return any(each.name == queue and each.is_lossy for each in self.queues)

    def loses(self, exchange: str, routing_key: str) -> bool:
        """Do only lossy queues get what is published there?"""
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


def topology(delays: Iterable[timedelta] = DELAYS) -> Topology:
    """The whole topology, with one delay queue for each distinct delay."""
    levels = sorted(set(delays))
    work = {
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
    }
    return Topology(
        exchanges=(
            Exchange(TRAINING_EXCHANGE, "topic"),
            Exchange(EVENTS_EXCHANGE, "topic"),
            Exchange(DEAD_EXCHANGE, "direct"),
            *(Exchange(delay_name(delay), "fanout") for delay in levels),
        ),
        queues=(
            Queue(DEAD_QUEUE, _dead()),
            _work(EXTRACTOR_QUEUE),
            _work(STATE_QUEUE),
            Queue(PROGRESS_QUEUE, _lossy(), is_lossy=True),
            _work(OPS_QUEUE),
            *(Queue(delay_name(delay), _delay(delay)) for delay in levels),
        ),
        bindings=(
            *(Binding(event.exchange, queue, event.key) for queue, events in work.items() for event in events),
            *(Binding(DEAD_EXCHANGE, DEAD_QUEUE, name) for name in _DYING),
            *(Binding(delay_name(delay), delay_name(delay), "") for delay in levels),
        ),
    )


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


def _delay(delay: timedelta) -> dict[str, str | int]:
    # No dead-letter routing key: a message keeps the one it was published with, which is the queue to return to.
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
