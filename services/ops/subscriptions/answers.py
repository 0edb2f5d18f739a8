"""What subscriptions read in the answers of RabbitMQ's management API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, RootModel

from services.ops.subscriptions.blocking import BoundQueue
from services.ops.subscriptions.views import LONGEST

Q = TypeVar("Q", bound=BaseModel)


def _object(value: object) -> object:
    return value if isinstance(value, dict) else {}


#: Reads as an object without fields what RabbitMQ does not know yet, or writes as an empty list.
KNOWN: Final = BeforeValidator(_object)


def _count(value: object) -> object:
    return value if isinstance(value, int) else 0


#: A count, which RabbitMQ does not know for some seconds after a queue was declared.
_Count = Annotated[int, BeforeValidator(_count)]


class _Stats(BaseModel):
    publish: _Count = 0


class QueueAnswer(BaseModel):
    """A queue of a subscription."""

    name: str
    messages: _Count = 0
    consumers: _Count = 0
    message_stats: Annotated[_Stats, KNOWN] = _Stats()


class PageAnswer(BaseModel, Generic[Q]):
    """A page of queues."""

    items: Sequence[Q]
    page_count: int = 1


class _Limit(BaseModel):
    max_length: int = Field(default=LONGEST, alias="max-length")


class _Policy(BaseModel):
    name: str
    definition: Annotated[_Limit, KNOWN]


class PoliciesAnswer(RootModel[list[_Policy]]):
    """All policies."""


class _Overflow(BaseModel):
    overflow: str = ""
    argument: str = Field(default="", alias="x-overflow")


class BoundAnswer(BaseModel):
    """A queue of others, with what says what happens when it is full."""

    name: str
    state: str = ""
    arguments: Annotated[_Overflow, KNOWN] = _Overflow()
    effective_policy_definition: Annotated[_Overflow, KNOWN] = _Overflow()

    def queue(self) -> BoundQueue:
        """Return the queue; of argument and policy the argument counts."""
        overflow = self.arguments.argument or self.effective_policy_definition.overflow
        return BoundQueue(self.name, overflow, self.state)


class Binding(BaseModel):
    """A binding of an exchange."""

    destination: str
    destination_type: str
    routing_key: str
    properties_key: str


class Bindings(RootModel[list[Binding]]):
    """All bindings of an exchange."""
