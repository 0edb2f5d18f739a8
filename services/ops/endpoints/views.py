"""Requests and answers of the operators' routes for webhook endpoints. Pure."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from services.ops.letters.views import Reasoned
from shared.contract.answers import Flag, Moment
from shared.contract.errors import PermanentError


class EndpointRefused(PermanentError):
    """The notifier refuses a change of a webhook endpoint, and says why."""

    code = "endpoint_refused"


class ChangeEndpoint(Reasoned):
    """Why an endpoint is changed, or a delivery sent again."""


class ResendDeliveries(ChangeEndpoint):
    """Which deliveries of an endpoint to send again, and why."""

    #: Those of events from this time on.
    since: Moment
    #: False: only those that failed. True: also those that were delivered.
    all: Flag = False
    #: True: nothing is sent, and nothing is in the audit; the answer says how many would be.
    dry_run: Flag = False


class EndpointEnabled(BaseModel):
    """An endpoint whose deliveries go on."""

    url: str
    status_at: datetime


class DeliveryResent(BaseModel):
    """A delivery that is sent again."""

    id: UUID
    event: str
    event_id: str


class DeliveriesResent(BaseModel):
    """How many deliveries are sent again."""

    deliveries: int
    dry_run: bool = False
