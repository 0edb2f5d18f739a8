"""Webhook endpoints and their deliveries: the notifier's answers as far as a page shows them, as rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from services.ops.console.views.filters import address

#: The statuses of deliveries, as filters, and the kind of each one's badge.
STATUSES: Final[Mapping[str, str]] = {
    "failed": "bad",
    "retrying": "warn",
    "waiting": "quiet",
    "queued": "info",
    "delivered": "good",
}
#: How far back deliveries can be sent again: they are kept for 30 days.
PERIODS: Final[Mapping[str, timedelta]] = {
    "the last hour": timedelta(hours=1),
    "the last day": timedelta(days=1),
    "the last 7 days": timedelta(days=7),
    "the last 30 days": timedelta(days=30),
}


class Endpoint(BaseModel):
    """A webhook endpoint."""

    id: UUID
    url: str
    events: Sequence[str]
    description: str
    status: str
    status_at: datetime
    failing_since: datetime | None
    failed_attempts: int
    last_success_at: datetime | None


class Delivery(BaseModel):
    """The delivery of one event to one endpoint, and its last attempt."""

    id: UUID
    event: str
    event_id: str
    status: str
    status_at: datetime
    created_at: datetime
    attempts: int
    response_status: int | None
    response: str | None
    took_ms: int | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a form would send again."""

    deliveries: int
    since: datetime
    #: ``on``: also those that were delivered.
    all: str


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery."""

    delivery: Delivery
    kind: str
    #: The last attempt in a few words.
    attempt: str


@dataclass(frozen=True, slots=True)
class Filter:
    """A link that shows the deliveries of one status."""

    name: str
    address: str
    is_chosen: bool


def delivery_row(delivery: Delivery) -> DeliveryRow:
    """Return a row of the list."""
    return DeliveryRow(delivery, STATUSES.get(delivery.status, "quiet"), _attempt(delivery))


def filters(path: str, chosen: str | None) -> list[Filter]:
    """Return the links to the deliveries of each status at *path*."""
    names = {"all": None, **{name: name for name in STATUSES}}
    return [Filter(name, address(path, {"status": status}), status == chosen) for name, status in names.items()]


def _attempt(delivery: Delivery) -> str:
    if not delivery.attempts:
        return "no attempt yet"
    answered = "no response" if delivery.response_status is None else f"answered {delivery.response_status}"
    return answered if delivery.took_ms is None else f"{answered} after {delivery.took_ms} ms"
