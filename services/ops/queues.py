"""Queues in the answers of RabbitMQ's management API, and when their oldest waiting messages arrived. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator

Q = TypeVar("Q", bound=BaseModel)

#: Samples of one queue; beyond that every second one is dropped.
_MOST_SAMPLES: Final = 1000


def _object(value: object) -> object:
    return value if isinstance(value, dict) else {}


#: Reads as an object without fields what RabbitMQ does not know yet, or writes as an empty list.
KNOWN: Final = BeforeValidator(_object)


def _number(value: object) -> object:
    return value if isinstance(value, int) else None


#: A count. RabbitMQ does not know it for some seconds after a queue was declared.
_Count = Annotated[int | None, BeforeValidator(_number)]


class _Rate(BaseModel):
    rate: float | None = None


_Details = Annotated[_Rate, KNOWN]


class _Stats(BaseModel):
    #: How many messages ever arrived.
    publish: Annotated[int, BeforeValidator(lambda value: _number(value) or 0)] = 0
    publish_details: _Details = _Rate()
    ack_details: _Details = _Rate()


class QueueAnswer(BaseModel):
    """Counts of a queue. None: they were not asked for, or RabbitMQ does not know them yet."""

    name: str
    messages: _Count = None
    messages_ready: _Count = None
    messages_unacknowledged: _Count = None
    consumers: _Count = None
    message_stats: Annotated[_Stats, KNOWN] = _Stats()


class PageAnswer(BaseModel, Generic[Q]):
    """A page of queues."""

    items: Sequence[Q]
    page_count: int = 1


class Arrivals:
    """
    Samples of how many messages ever arrived in each queue: they tell when the oldest waiting one arrived.

    RabbitMQ does not tell it for quorum queues, and to look at a message counts as a delivery. But it counts the
    messages that arrived: of 100 that arrived and 3 that wait, the oldest waiting one is the 98th. Samples of that
    count tell when the 98th arrived.
    """

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[datetime, int]]] = {}

    def note(self, arrived: Mapping[str, int], *, at: datetime) -> None:
        """Add a sample for each queue; forget all that are not in *arrived*."""
        for name in self._samples.keys() - arrived.keys():
            del self._samples[name]
        for name, count in arrived.items():
            samples = self._samples.setdefault(name, [])
            if samples and count < samples[-1][1]:
                samples.clear()  # RabbitMQ counts from 0 again after a restart
            if not samples or count > samples[-1][1]:
                samples.append((at, count))
            if len(samples) > _MOST_SAMPLES:
                del samples[1::2]

    def oldest(self, name: str, *, arrived: int, waiting: int, now: datetime) -> datetime | None:
        """Return when the oldest of *waiting* messages arrived; None if none waits, or it was before all samples."""
        samples, gone = self._samples.get(name, []), arrived - waiting
        if not waiting or not samples or samples[0][1] > gone:
            return None
        return next((at for at, count in samples if count > gone), now)
