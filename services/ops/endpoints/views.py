"""Requests and answers of the operators' routes for webhook endpoints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from services.ops.requests import Name, Number, Reasoned
from shared.contract.answers import Flag, Moment
from shared.contract.checked import PRINTABLE
from shared.contract.errors import PermanentError


class EndpointRefused(PermanentError):
    """The notifier refuses a change of a webhook endpoint, and says why."""

    code = "endpoint_refused"


class ChangeEndpoint(Reasoned):
    """Why an endpoint is changed, or a delivery sent again."""


_Url = Annotated[str, StringConstraints(min_length=1, max_length=2048), PRINTABLE]
_Events = Annotated[Sequence[Name], Field(min_length=1, max_length=50)]
_Description = Annotated[str, StringConstraints(max_length=500), PRINTABLE]


class AddEndpoint(ChangeEndpoint):
    """A new endpoint, and why it is added. The notifier says what is valid."""

    url: _Url
    events: _Events
    description: _Description = ""


class EditEndpoint(ChangeEndpoint):
    """What is to change of an endpoint, and why. What is not given stays as it is; the notifier says what is valid."""

    url: _Url | None = None
    events: _Events | None = None
    description: _Description | None = None
    #: paused: its deliveries wait. enabled: they go on, also after it was disabled for failing.
    status: Literal["enabled", "paused"] | None = None


class ResendDeliveries(ChangeEndpoint):
    """Which deliveries of an endpoint to send again, and why."""

    #: Those of events from this time on.
    since: Moment
    #: False: only those that failed. True: also those that were delivered.
    all: Flag = False
    #: True: nothing is sent, and nothing is in the audit; the answer says how many would be.
    dry_run: Flag = False
    #: Only deliveries up to this number, such as `newest` of a dry run: none that came since.
    up_to: Number | None = None


class EndpointEnabled(BaseModel):
    """An endpoint whose deliveries go on."""

    url: str
    status_at: datetime


class EndpointEdited(EndpointEnabled):
    """An endpoint that was changed."""

    status: str


class SecretMade(BaseModel):
    """The new signing secret of an endpoint, which is shown only here."""

    id: UUID
    secret: str


class EndpointRemoved(BaseModel):
    """An endpoint that is removed with its deliveries."""

    id: UUID
    url: str


class DeliveryResent(BaseModel):
    """A delivery that is sent again."""

    id: UUID
    event: str
    event_id: str


class DeliveryOfTest(DeliveryResent):
    """The delivery of a test."""

    number: int
    endpoint_id: UUID
    status: str
    status_at: datetime
    created_at: datetime
    attempts: int
    response_status: int | None
    response: str | None
    took_ms: int | None


class DeliveriesResent(BaseModel):
    """How many deliveries are sent again."""

    deliveries: int
    dry_run: bool = False
    #: Where the next request begins: 10,000 are sent at a time. Null: these are all.
    next_since: datetime | None = None
    #: Of a dry run, the highest number among all deliveries that it found; null: it found none.
    newest: int | None = None
