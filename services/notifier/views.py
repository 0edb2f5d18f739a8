"""Requests and answers of the API of webhook endpoints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.contract.answers import NUMBER, Flag, Moment
from shared.contract.checked import PRINTABLE, Checked
from shared.contract.errors import PermanentError
from shared.contract.events import PUBLIC_EVENTS

_KEYS: Final = tuple(sorted(event.key for event in PUBLIC_EVENTS))


def _known(key: str) -> str:
    if key not in _KEYS:
        raise ValueError(f"must be one of {', '.join(_KEYS)}")
    return key


EventKey = Annotated[str, Checked(_known, enum=list(_KEYS))]
EventKeys = Annotated[tuple[EventKey, ...], Field(min_length=1, max_length=50)]
#: What else a URL needs is checked by `addresses.check_url`.
EndpointUrl = Annotated[str, StringConstraints(min_length=1, max_length=2048), PRINTABLE]
Description = Annotated[str, StringConstraints(max_length=500), PRINTABLE]


class EndpointStatus(StrEnum):
    """Whether deliveries go to an endpoint. If not, they wait for it, up to 30 days."""

    ENABLED = "enabled"
    PAUSED = "paused"  #: On request.
    GONE = "gone"  #: It answered 410 Gone.
    FAILING = "failing"  #: All attempts of five days failed.


class DeliveryStatus(StrEnum):
    """How far a delivery is."""

    WAITING = "waiting"  #: For its endpoint to be enabled, or for earlier deliveries to it.
    QUEUED = "queued"  #: To be attempted at once.
    RETRYING = "retrying"  #: An attempt failed; another one follows.
    DELIVERED = "delivered"
    FAILED = "failed"  #: Given up; it is a dead letter.


class NoEndpoint(PermanentError):
    """There is no such webhook endpoint."""

    code = "no_endpoint"


class NoDelivery(PermanentError):
    """The endpoint has no such delivery."""

    code = "no_delivery"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AddEndpoint(_Body):
    """A new webhook endpoint."""

    url: EndpointUrl
    """An https address on the public internet."""
    events: EventKeys
    """The events to deliver."""
    description: Description = ""


class EditEndpoint(_Body):
    """What is to change of a webhook endpoint."""

    url: EndpointUrl | None = None
    events: EventKeys | None = None
    description: Description | None = None
    status: Literal["enabled", "paused"] | None = None
    """``paused``: its deliveries wait. ``enabled``: they are sent, also after it was disabled for failing."""


class Resend(_Body):
    """Which deliveries of an endpoint to send again."""

    since: Moment
    """Those of events from this time on."""
    all: Flag = False
    """False: only those that failed. True: also those that were delivered."""
    dry_run: Flag = False
    """True: nothing is sent; the answer says how many would be."""
    up_to: Annotated[int, Field(ge=1, lt=2**53), NUMBER] | None = None
    """Only deliveries up to this number, such as `newest` of a dry run: none that came since."""


class EndpointView(BaseModel):
    """A webhook endpoint."""

    number: int
    id: UUID
    url: str
    events: Sequence[str]
    description: str
    created_at: datetime
    status: EndpointStatus
    #: Since when it has this status.
    status_at: datetime
    #: The first failed attempt since the last success.
    failing_since: datetime | None
    #: Failed attempts since the last success, of all its deliveries.
    failed_attempts: int
    last_success_at: datetime | None
    #: How long its previous secret signs as well, after a rotation.
    old_secret_until: datetime | None


class SecretView(EndpointView):
    """A webhook endpoint with its signing secret, which is shown only when it is made."""

    secret: str

    @classmethod
    def of(cls, view: EndpointView, secret: str) -> Self:
        return cls(**view.model_dump(), secret=secret)


class DeliveryView(BaseModel):
    """The delivery of one event to one endpoint, and its last attempt."""

    number: int
    id: UUID
    endpoint_id: UUID
    event_id: str
    event: str
    status: DeliveryStatus
    status_at: datetime
    created_at: datetime
    #: Requests so far.
    attempts: int
    response_status: int | None
    #: The beginning of the response, or why there was none.
    response: str | None
    took_ms: int | None


class EventDeliveryView(DeliveryView):
    """The delivery of an event to one of its endpoints."""

    #: The endpoint's address.
    url: str


class Resent(BaseModel):
    """How many deliveries are sent again."""

    deliveries: int
    dry_run: bool = False
    next_since: datetime | None = None
    """Where the next request begins: 10,000 are sent at a time. Null: these are all."""
    newest: int | None = None
    """Of a dry run, the highest number among all deliveries that it found; null: it found none."""
