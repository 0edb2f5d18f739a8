"""What the client needs of the outside world: a broker, an API, and both together as a network. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from modelswap_events.change import Change


class Next(Enum):
    """A position in the log: what is published from now on."""

    NEXT = "next"


NEXT: Final = Next.NEXT
#: Where to begin in the log: from now on, at an offset, or at a time.
Position = Next | int | datetime


class Message(Protocol):
    """One delivery."""

    @property
    def headers(self) -> Mapping[str, object]: ...

    @property
    def content_type(self) -> str | None: ...

    @property
    def body(self) -> bytes: ...

    @property
    def offset(self) -> int | None:
        """Its offset in the log; None if it came from the subscription's queue."""

    async def ack(self) -> None:
        """Ack it. If the connection is lost, do nothing: it is delivered again."""

    async def reject(self) -> None:
        """Have the broker move it to the subscription's overflow queue. In the log, skip it."""


class Link(Protocol):
    """An open connection that consumes the subscription's queue, or the log until there is such a queue."""

    @property
    def is_log(self) -> bool: ...

    @property
    def is_open(self) -> bool:
        """False once the connection or the consumer is lost."""

    async def next(self, seconds: float) -> Message | None:
        """Wait for a message, at most *seconds*; None if none came, or the link is not open any more."""

    async def close(self) -> None:
        """Close it. Messages without an ack are delivered again."""


class Broker(Protocol):
    """RabbitMQ, as one subscription sees it."""

    async def attach(self, position: Position) -> Link:
        """
        Consume the subscription's queue; if it does not exist, the log from *position* on.

        With an offset, consume the log first, to its end: a queue that was made since lacks what is next in the log.

        Raises:
            Refused: if the broker refuses the user.
            Away: if it does not answer.

        """


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the snapshot."""

    changes: tuple[Change, ...]
    next_cursor: str | None
    #: What to ask the next snapshot for, once this one is complete. The same on each of its pages.
    next_updated_since: datetime


class Api(Protocol):
    """modelswap's API for products."""

    async def get_page(self, updated_since: datetime | None, cursor: str | None) -> Page:
        """
        Return a page of users' current models, of those that changed since *updated_since* (None: all).

        Raises:
            Refused: if the API refuses the token, or has no such page.
            Away: if it does not answer, or not as expected.

        """


class Network(Protocol):
    """Makes the two; `modelswap_events.testing` has one without any network."""

    def broker(self, amqp_url: str, subscription: str) -> Broker: ...

    def api(self, api_url: str, token: str) -> Api: ...
