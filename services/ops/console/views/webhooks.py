"""Webhook endpoints and their deliveries, as the notifier answers, with their states in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from pydantic import BaseModel

#: The statuses of deliveries, as they are offered.
STATUSES: Final = ("failed", "retrying", "waiting", "queued", "delivered")
#: How far back deliveries can be sent again: they are kept for 30 days.
PERIODS: Final[Mapping[str, timedelta]] = {
    "the last hour": timedelta(hours=1),
    "the last day": timedelta(days=1),
    "the last 7 days": timedelta(days=7),
    "the last 30 days": timedelta(days=30),
}


class EndpointAnswer(BaseModel):
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

    @property
    def state(self) -> str:
        """Its status; also whether it has errors before it is disabled for them."""
        return "errors" if self.status == "enabled" and self.failing_since is not None else self.status


class DeliveryAnswer(BaseModel):
    """The delivery of one event to one endpoint, and its last attempt."""

    id: UUID
    event: str
    event_id: str
    status: str
    status_at: datetime
    attempts: int
    response_status: int | None
    response: str | None
    took_ms: int | None

    @property
    def last_attempt(self) -> str:
        """The last attempt in a few words."""
        if not self.attempts:
            return "no attempt yet"
        answered = "no response" if self.response_status is None else f"answered {self.response_status}"
        return answered if self.took_ms is None else f"{answered} after {self.took_ms} ms"


class EventDeliveryAnswer(DeliveryAnswer):
    """The same, with the endpoint's address."""

    url: str
