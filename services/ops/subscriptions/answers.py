"""What subscriptions read in the answers of RabbitMQ's management API. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, RootModel

from services.ops.queues import KNOWN
from services.ops.subscriptions.blocking import BoundQueue
from services.ops.subscriptions.views import LONGEST


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
