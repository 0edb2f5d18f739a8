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


class EditEndpoint(ChangeEndpoint):
    """What is to change of an endpoint, and why. What is not given stays as it is; the notifier says what is valid."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048), PRINTABLE] | None = None
    events: Annotated[Sequence[Name], Field(min_length=1, max_length=50)] | None = None
    description: Annotated[str, StringConstraints(max_length=500), PRINTABLE] | None = None
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


class DeliveryResent(BaseModel):
    """A delivery that is sent again."""

    id: UUID
    event: str
    event_id: str


class DeliveriesResent(BaseModel):
    """How many deliveries are sent again."""

    deliveries: int
    dry_run: bool = False
    #: Where the next request begins: 10,000 are sent at a time. Null: these are all.
    next_since: datetime | None = None
    #: Of a dry run, the highest number among all deliveries that it found; null: it found none.
    newest: int | None = None
