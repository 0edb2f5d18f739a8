"""What subscriptions read in the answers of RabbitMQ's management API. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field

from services.ops.queues import KNOWN
from services.ops.subscriptions.views import LONGEST


class _Limit(BaseModel):
    max_length: int = Field(default=LONGEST, alias="max-length")


class Policy(BaseModel):
    """A policy, which may limit a queue."""

    name: str
    definition: Annotated[_Limit, KNOWN]


class _Overflow(BaseModel):
    overflow: str = ""
    argument: str = Field(default="", alias="x-overflow")


#: A queue without a node, or without a majority of its nodes, takes nothing.
_DOWN: Final = ("crashed", "down", "minority", "stopped", "terminated")


class BoundAnswer(BaseModel):
    """
    A queue of others that gets public events.

    RabbitMQ confirms a published event only when every queue that it reached has taken it. A queue that rejects it
    (full, with `reject-publish`), or whose node is down, makes RabbitMQ refuse the event. The outbox publishes it again
    until it is confirmed, and the events behind it wait.
    """

    name: str
    state: str = ""
    arguments: Annotated[_Overflow, KNOWN] = _Overflow()
    effective_policy_definition: Annotated[_Overflow, KNOWN] = _Overflow()

    @property
    def overflow(self) -> str:
        """What happens when it is full, by its own argument or a policy; empty: the oldest message is dropped."""
        return self.arguments.argument or self.effective_policy_definition.overflow

    @property
    def why_blocking(self) -> str | None:
        """Why it holds up all subscribers, or could; None if it cannot."""
        if self.state in _DOWN:
            return f"{self.name} takes no events: it is {self.state}"
        if self.overflow.startswith("reject-publish"):
            return f"{self.name} rejects events when it is full ({self.overflow})"
        return None


class Binding(BaseModel):
    """A binding of an exchange."""

    destination: str
    destination_type: str
    routing_key: str
    properties_key: str
