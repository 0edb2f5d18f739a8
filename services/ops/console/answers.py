"""What the console reads in the answers of state and the notifier. Pure. Fields that no page shows are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from shared.contract.values import Retries

#: Stages in the order of a training's walk; in the first three it changes by itself.
STAGES: Final = (
    "requested",
    "running",
    "verifying",
    "active",
    "replaced",
    "superseded",
    "failed",
    "canceled",
    "unverified",
)
UNDERWAY: Final = STAGES[:3]
#: In these, a training succeeded without a model of its own.
RETRYABLE: Final = ("verifying", "unverified")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Failure(_Answer):
    """Why a training has no usable model."""

    code: str
    reason: str


class TrainingAnswer(_Answer):
    """A training."""

    ref: UUID
    training_id: str | None
    user_id: str
    generation: int
    activated_generation: int | None = None
    stage: str
    current: bool
    destination: str
    trainer: str | None
    trigger_word: str
    progress: int
    progress_source: str | None
    step: int | None
    total_steps: int | None
    eta_seconds: int | None
    eta_low_seconds: int | None
    eta_high_seconds: int | None
    overdue_at: datetime | None
    reference: str | None
    failure: Failure | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def name(self) -> str:
        """Replicate's id, or our ref until that is known."""
        return self.training_id or str(self.ref)

    @property
    def is_underway(self) -> bool:
        return self.stage in UNDERWAY


class FactAnswer(_Answer):
    """A fact in a training's timeline."""

    kind: str
    at: datetime
    event: str | None = None
    event_id: str | None = None
    applied_at: datetime | None = None
    retries: Retries | None = None
    applied_retries: Retries | None = None
    stage: str | None = None
    replay: str | None = None
    detail: Mapping[str, JsonValue] = {}


class TimelineAnswer(_Answer):
    """A training's timeline."""

    items: Sequence[FactAnswer]
    is_complete: bool


class OutputAnswer(_Answer):
    """A training's output."""

    output: JsonValue


class ModelAnswer(_Answer):
    """A user's current model, or the one that a rollback would make current."""

    reference: str
    generation: int
    training_id: str
    trigger_word: str
    activated_at: datetime


class ChangeAnswer(_Answer):
    """A change of a user's model."""

    user_id: str | None = None
    generation: int
    reference: str | None
    previous_reference: str | None
    training_id: str
    cause: str
    actor: str
    reason: str
    at: datetime


class EndpointAnswer(_Answer):
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


class DeliveryAnswer(_Answer):
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


class EventDeliveryAnswer(DeliveryAnswer):
    """The same, with the endpoint's address."""

    url: str


class StageCount(_Answer):
    """How many trainings are in a stage."""

    stage: str
    count: int
    is_exact: bool


class CountsAnswer(_Answer):
    """How many trainings are in each stage."""

    items: Sequence[StageCount]


class SwapStatistics(_Answer):
    """Swaps, and the seconds from webhook to swap."""

    swaps: int
    p50_seconds: float | None
    p99_seconds: float | None


class HourStatistics(SwapStatistics):
    """Swaps in the hour from then on."""

    hour: datetime


class StatisticsAnswer(_Answer):
    """Swaps of the last hours, the oldest first."""

    total: SwapStatistics
    items: Sequence[HourStatistics]


class WebhookStatistics(_Answer):
    """Trainings that ended, and those whose end no webhook reported."""

    ended: int
    missed: int
    missed_share: float | None


class HourWebhooks(WebhookStatistics):
    """Ends of trainings in the hour from then on."""

    hour: datetime


class WebhooksAnswer(_Answer):
    """Ends of trainings in the last hours, the oldest first."""

    total: WebhookStatistics
    items: Sequence[HourWebhooks]


class HitAnswer(_Answer):
    """Something that a search found: a ``training``, a ``user`` or a ``model``."""

    kind: str
    name: str
    user_id: str | None
    stage: str | None
    reference: str | None


class SearchAnswer(_Answer):
    """What a search found."""

    items: Sequence[HitAnswer]
    is_complete: bool
