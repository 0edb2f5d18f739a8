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
which RabbitMQ drops. `queues` has the arguments of each kind of queue.

The lossy queue and the events log are declared and consumed apart from the other queues, so that no process waits for
them: see `queues`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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
from shared.contract.queues import (
    LOG_LIMITS,
    LogLimits,
    Queue,
    dead_queue,
    delay_queue,
    log_queue,
    lossy_queue,
    placed,
    spilling_queue,
    work_queue,
)
from shared.contract.retry import DELAYS

EXTRACTOR_QUEUE: Final = "modelswap.extractor"
STATE_QUEUE: Final = "modelswap.state"
PROGRESS_QUEUE: Final = "modelswap.progress"
OPS_QUEUE: Final = "modelswap.ops"
#: One message for each delivery to a webhook endpoint.
DELIVERIES_QUEUE: Final = "modelswap.deliveries"
DEAD_QUEUE: Final = "modelswap.dead"
#: A stream with every public event.
EVENTS_LOG: Final = "modelswap.events.log"
DEAD_EXCHANGE: Final = "modelswap.dead"
#: Not a queue: the routing key under which the receiver dead-letters webhooks that it cannot translate.
RECEIVER: Final = "modelswap.receiver"

_DELAY: Final = "modelswap.delay."
#: Routing keys of dead letters: the queue or service that dead-lettered the message.
_DEAD_LETTER_KEYS: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE, OPS_QUEUE, DELIVERIES_QUEUE, RECEIVER)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange to declare."""

    name: str
    kind: str


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

    @property
    def delays(self) -> frozenset[str]:
        """The names of the delays: each is an exchange and the queue behind it."""
        return frozenset(each.name for each in self.exchanges if each.name.startswith(_DELAY))

    def _bindings_of(self, queues: Iterable[Queue]) -> tuple[Binding, ...]:
        names = {queue.name for queue in queues}
        return tuple(binding for binding in self.bindings if binding.queue in names)

    def has_binding(self, event: type[Event]) -> bool:
        """Return whether one of our own queues is bound for *event*; if so, publishing it to no queue is an error."""
        return (event.exchange, event.key) in self.routed


def delay_name(delay: timedelta) -> str:
    """
    ``modelswap.delay.30s``: the exchange, and the queue behind it, that hold a message for *delay*.

    It then goes to the queue that its routing key names. The exchange is a topic exchange, because RabbitMQ limits by
    whom a routing key may be used for those only: no process may put a message into another one's queue.
    """
    milliseconds = round(delay / timedelta(milliseconds=1))
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{_DELAY}{milliseconds // size}{unit}"
    return f"{_DELAY}{milliseconds}ms"


def topology(
    delays: Iterable[timedelta] = DELAYS, log_limits: LogLimits = LOG_LIMITS, replicas: int | None = None
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
            *(Exchange(delay_name(delay), "topic") for delay in levels),
        ),
        queues=tuple(
            placed(queue, replicas)
            for queue in (
                dead_queue(DEAD_QUEUE),
                work_queue(EXTRACTOR_QUEUE, dead_exchange=DEAD_EXCHANGE),
                work_queue(STATE_QUEUE, dead_exchange=DEAD_EXCHANGE),
                lossy_queue(PROGRESS_QUEUE),
                work_queue(OPS_QUEUE, dead_exchange=DEAD_EXCHANGE),
                log_queue(EVENTS_LOG, log_limits),
                spilling_queue(DELIVERIES_QUEUE, dead_exchange=DEAD_EXCHANGE),
                *(delay_queue(delay_name(delay), delay) for delay in levels),
            )
        ),
        bindings=(
            *(Binding(event.exchange, queue, event.key) for queue, events in work.items() for event in events),
            *(Binding(EVENTS_EXCHANGE, EVENTS_LOG, event.key) for event in PUBLIC_EVENTS),
            *(Binding(DEAD_EXCHANGE, DEAD_QUEUE, name) for name in _DEAD_LETTER_KEYS),
            *(Binding(delay_name(delay), delay_name(delay), "#") for delay in levels),
        ),
    )
