"""Queues in the answers of RabbitMQ's management API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator

Q = TypeVar("Q", bound=BaseModel)


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
