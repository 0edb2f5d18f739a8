"""Requests and answers of the API of subscriptions, and its errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, Field, StringConstraints

from services.ops.requests import Because
from shared.contract.answers import NUMBER
from shared.contract.checked import Checked
from shared.contract.errors import PermanentError
from shared.contract.events import PUBLIC_EVENTS

#: Events that can be subscribed to.
PUBLIC: Final = tuple(event.key for event in PUBLIC_EVENTS)
DEFAULT_LENGTH: Final = 100_000
LONGEST: Final = 10_000_000
_NAME: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"


def _public(key: str) -> str:
    if key not in PUBLIC:
        close = get_close_matches(key, PUBLIC, n=1, cutoff=0.5)
        hint = f"do you mean {close[0]}?" if close else f"there are {', '.join(PUBLIC)}"
        raise ValueError(f"no public event has the name {key!r}: {hint}")
    return key


def _distinct(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(keys)))


Name = Annotated[str, StringConstraints(pattern=_NAME)]
_Event = Annotated[str, Checked(_public, enum=list(PUBLIC))]


class NoSubscription(PermanentError):
    """There is no such subscription."""

    code = "no_subscription"


class NoManagement(PermanentError):
    """Ops does not know the address of RabbitMQ's management API."""

    code = "no_management"


class Subscribe(Because):
    """What a subscription gets, and why; the reason is audited."""

    #: Names of public events, such as ``model.activated.v1``.
    events: Annotated[tuple[_Event, ...], Field(min_length=1, max_length=50), Checked(_distinct)]
    #: How many events may wait; then the oldest moves to the overflow queue. Left out: as before, at first 100,000.
    max_length: Annotated[int, Field(ge=1, le=LONGEST), NUMBER] | None = None


class Planned(NamedTuple):
    """What a request to add or change a subscription will do."""

    #: Whether it makes the user: it is missing, too, where adding or removing was cut short.
    is_new: bool
    max_length: int


class SubscriptionView(BaseModel):
    """A subscription and how far its service is behind."""

    name: str
    events: Sequence[str]
    max_length: int
    #: The queue that its service consumes.
    queue: str
    #: The RabbitMQ user that may read it.
    user: str
    #: How many events wait, or are being handled.
    waiting: int
    consumers: int
    #: When the oldest of them arrived, to half a minute; null: none waits, or it is not known yet.
    oldest_at: datetime | None = None
    #: The queue of what did not fit, and of what was delivered too often.
    overflow_queue: str
    #: How many events are there.
    overflowed: int
    #: From this number on, the oldest of them are lost.
    overflow_max_length: int


class SubscriptionAdded(SubscriptionView):
    """A subscription that was added or changed."""

    #: The address with the user's password, which is shown this once; null if the user existed before.
    amqp_url: str | None = None


class PasswordRotated(BaseModel):
    """The new password of a subscription's user."""

    name: str
    #: The address with the new password, which is shown this once. Open connections stay open.
    amqp_url: str
