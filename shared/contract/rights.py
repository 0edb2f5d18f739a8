"""Rights of RabbitMQ's users, as data. Pure: `shared.runtime.management` sets them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shared.contract.events import (
    DeliveryRequested,
    Event,
    ExtractionFailed,
    ExtractionRequested,
    ModelActivated,
    ModelReady,
    ModelReverted,
    ModelSuperseded,
    ModelWithdrawn,
    ReplaySettled,
    TrainingCanceled,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.topology import (
    DEAD_EXCHANGE,
    DEAD_QUEUE,
    DELIVERIES_QUEUE,
    EVENTS_LOG,
    EXTRACTOR_QUEUE,
    OPS_QUEUE,
    PROGRESS_QUEUE,
    STATE_QUEUE,
    Topology,
)

#: A pattern that no name matches.
NOTHING: Final = "^$"
#: How patterns call the exchange that leads to every queue by its name.
_DEFAULT_EXCHANGE: Final = "amq.default"


@dataclass(frozen=True, slots=True)
class Rights:
    """Patterns of the exchanges and queues that a user may declare, write and read."""

    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING
    #: For some exchanges, the pattern of the routing keys that it may publish with; to others it may with any.
    topics: Mapping[str, str] = field(default_factory=dict)


def exactly(*names: str) -> str:
    """Return the pattern of these names and no other."""
    return f"^({'|'.join(map(re.escape, sorted(names)))})$" if names else NOTHING


@dataclass(frozen=True, slots=True)
class _Use:
    """What a process does on the broker."""

    consumes: tuple[str, ...]
    publishes: tuple[type[Event], ...]
    #: Whether it publishes to queues by their names, such as a replay does.
    to_queues: bool = False
    reads_log: bool = False


_ENDS: Final = (TrainingSucceeded, TrainingFailed, TrainingCanceled)
_TRAINING_EVENTS: Final = (TrainingStarted, TrainingProgressed, *_ENDS)
_USES: Final = {
    "receiver": _Use((), _TRAINING_EVENTS),
    "extractor": _Use((EXTRACTOR_QUEUE,), (ModelReady, ExtractionFailed)),
    "state": _Use(
        (STATE_QUEUE, PROGRESS_QUEUE),
        # A training may have ended before it is registered; then state reports the end.
        (ModelActivated, ModelSuperseded, ModelWithdrawn, ModelReverted, ReplaySettled, ExtractionRequested, *_ENDS),
    ),
    "ops": _Use((OPS_QUEUE, DEAD_QUEUE), (*_TRAINING_EVENTS, ExtractionFailed), to_queues=True),
    "notifier": _Use((DELIVERIES_QUEUE,), (DeliveryRequested, ReplaySettled), reads_log=True),
}
#: Which queues each process consumes.
CONSUMED: Final = {process: use.consumes for process, use in _USES.items()}
#: The RabbitMQ user of each process.
USERS: Final = {process: f"modelswap-{process}" for process in _USES}


def rights_of(process: str, plan: Topology) -> Rights:
    """Return what the user of *process* may do: read its queues, and publish its events, retries and dead letters."""
    use = _USES[process]
    keys: dict[str, set[str]] = {}
    for event in use.publishes:
        keys.setdefault(event.exchange, set()).add(event.key)
    retried = {queue for queue in use.consumes if not plan.may_lose(queue)}
    if retried:
        keys |= dict.fromkeys(plan.delays, retried)
    written = {*keys, DEAD_EXCHANGE}
    if use.to_queues:
        written.add(_DEFAULT_EXCHANGE)
    topics = {exchange: exactly(*names) for exchange, names in keys.items()}
    read = (*use.consumes, EVENTS_LOG) if use.reads_log else use.consumes
    return Rights(write=exactly(*written), read=exactly(*read), topics=topics)
