"""The screen of a webhook endpoint: statuses, periods, and the last attempt in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.ops.console.answers import DeliveryAnswer, EndpointAnswer
from services.ops.endpoints.views import DeliveriesResent

#: The statuses of deliveries, as they are offered.
STATUSES: Final = ("failed", "retrying", "waiting", "queued", "delivered")
#: How far back deliveries can be sent again: they are kept for 30 days.
PERIODS: Final[Mapping[str, timedelta]] = {
    "the last hour": timedelta(hours=1),
    "the last day": timedelta(days=1),
    "the last 7 days": timedelta(days=7),
    "the last 30 days": timedelta(days=30),
}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a form would send again."""

    found: DeliveriesResent
    since: datetime
    #: ``on``: also those that were delivered.
    all: str


def state_of(endpoint: EndpointAnswer) -> str:
    """Return the status of *endpoint*; also whether it has errors before it is disabled for them."""
    return "errors" if endpoint.status == "enabled" and endpoint.failing_since is not None else endpoint.status


def attempt_of(delivery: DeliveryAnswer) -> str:
    """Return the last attempt in a few words."""
    if not delivery.attempts:
        return "no attempt yet"
    answered = "no response" if delivery.response_status is None else f"answered {delivery.response_status}"
    return answered if delivery.took_ms is None else f"{answered} after {delivery.took_ms} ms"
