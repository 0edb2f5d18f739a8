"""Requests to create a training or a prediction (a job), as clients send them. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.simulator.faults import WebhookEvent

#: Webhooks of a job whose owner named no events.
_DEFAULT_EVENTS: Final = frozenset({WebhookEvent.OUTPUT, WebhookEvent.COMPLETED})


class JobRequest(BaseModel):
    """Request to create a job."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, JsonValue]
    webhook: Annotated[str, Field(pattern=r"^(https?://.+)?$")] = ""
    webhook_events_filter: frozenset[WebhookEvent] = _DEFAULT_EVENTS


class TrainingRequest(JobRequest):
    """Request to create a training."""

    destination: str = ""
