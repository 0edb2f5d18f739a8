"""What the console reads of state's answers: services do not import each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Training(_Record):
    """A training, in ``GET /v1/trainings``."""

    ref: UUID
    training_id: str | None
    user_id: str
    stage: str
    destination: str
    progress: int
    progress_source: str | None
    step: int | None
    total_steps: int | None
    eta_seconds: int | None
    eta_low_seconds: int | None
    eta_high_seconds: int | None
    overdue_at: datetime | None
    requested_at: datetime
    started_at: datetime | None


class StageCount(_Record):
    """How many trainings are in a stage; not exact: more than that could be counted quickly."""

    stage: str
    count: int
    is_exact: bool = True


class TrainingCounts(_Record):
    """``GET /v1/training-counts``."""

    items: Sequence[StageCount]


class SwapStatistics(_Record):
    """Swaps in some time, and the time from the webhook to the swap."""

    swaps: int
    p50_seconds: float | None
    p99_seconds: float | None


class HourStatistics(SwapStatistics):
    """Swaps in an hour."""

    hour: datetime


class SwapsByHour(_Record):
    """``GET /v1/swap-statistics``."""

    total: SwapStatistics
    items: Sequence[HourStatistics]


class SearchHit(_Record):
    """Something that a search found: a training, a user or a model."""

    kind: str
    name: str
    user_id: str | None
    ref: UUID | None
    stage: str | None
    reference: str | None


class SearchResults(_Record):
    """``GET /v1/search``."""

    items: Sequence[SearchHit]
    is_complete: bool
