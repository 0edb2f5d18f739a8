"""What subscriptions read in the answers of RabbitMQ's management API. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, RootModel

from services.ops.queues import KNOWN
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
    """A queue of others that gets public events."""

    name: str
    state: str = ""
    arguments: Annotated[_Overflow, KNOWN] = _Overflow()
    effective_policy_definition: Annotated[_Overflow, KNOWN] = _Overflow()

    @property
    def overflow(self) -> str:
        """What happens when it is full, by its own argument or a policy; empty: the oldest message is dropped."""
        return self.arguments.argument or self.effective_policy_definition.overflow


class Binding(BaseModel):
    """A binding of an exchange."""

    destination: str
    destination_type: str
    routing_key: str
    properties_key: str


class Bindings(RootModel[list[Binding]]):
    """All bindings of an exchange."""
