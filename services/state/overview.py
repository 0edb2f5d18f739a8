"""Answers about all trainings: counts, statistics of swaps, search. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.state.transitions import Stage
from services.state.views import EXAMPLE, SwapView, View, example
from shared.contract.identity import ModelRef


class StageCount(View):
    """How many trainings are in a stage."""

    model_config = example({"stage": "running", "count": 12, "is_exact": True})

    stage: Stage
    count: int
    is_exact: bool
    """False if there are more than 10,000: then it is an estimate."""


class TrainingCounts(View):
    """How many trainings are in each stage."""

    items: Sequence[StageCount]
    """One for each stage, in the order of a training's walk."""


class SwapStatistics(View):
    """Swaps in some time, and how long each took from the report of the training's success."""

    swaps: int
    """Changes to another model, also by rollbacks and replays."""
    p50_seconds: float | None
    """Median of the time from the webhook to the swap; null if there was no swap by a training."""
    p99_seconds: float | None


class HourStatistics(SwapStatistics):
    """Swaps in an hour."""

    model_config = example({"hour": "2026-11-24T12:00:00Z", "swaps": 140, "p50_seconds": 0.8, "p99_seconds": 3.1})

    hour: datetime
    """When it began, in UTC."""


class SwapStatisticsView(View):
    """Swaps of the last hours."""

    total: SwapStatistics
    items: Sequence[HourStatistics]
    """Oldest hour first, hours without swaps too; the last one has not ended."""


class WebhookStatistics(View):
    """Trainings that ended in some time, and how many of their ends no webhook reported."""

    ended: int
    """Without those that were registered after their end, or given up: they had no webhook to miss."""
    missed: int
    """Those whose end was found by asking Replicate."""
    missed_share: float | None
    """0..1; null if none ended."""


class HourWebhooks(WebhookStatistics):
    """Ends of trainings in an hour."""

    model_config = example({"hour": "2026-11-24T12:00:00Z", "ended": 140, "missed": 7, "missed_share": 0.05})

    hour: datetime
    """When it began, in UTC."""


class WebhookStatisticsView(View):
    """Ends of trainings in the last hours."""

    total: WebhookStatistics
    items: Sequence[HourWebhooks]
    """Oldest hour first, hours in which none ended too; the last one has not ended."""


class UserSwapView(SwapView):
    """A change of a user's current model, in the list of all users' changes."""

    model_config = example({"user_id": EXAMPLE.user_id, "generation": 8, "at": "2026-11-24T15:00:00Z"})

    user_id: str


class HitKind(StrEnum):
    """What a search found: a training, a user, or the model that trainings write to."""

    TRAINING = "training"
    USER = "user"
    MODEL = "model"


class SearchHit(View):
    """Something that a search found."""

    model_config = example(
        {
            "kind": "model",
            "name": EXAMPLE.destination,
            "user_id": EXAMPLE.user_id,
            "ref": None,
            "stage": None,
            "reference": None,
        }
    )

    kind: HitKind
    name: str
    """Replicate's id of the training (its ref, if that is unknown), the user's id, or the model's ``owner/name``."""
    user_id: str | None
    """Whose it is; null for a model that several users train to."""
    ref: UUID | None
    """Of a training."""
    stage: Stage | None
    """Of a training."""
    reference: ModelRef | None
    """Model of a training, or current model of a user; null if there is none."""


class SearchResults(View):
    """What a search found."""

    items: Sequence[SearchHit]
    """Trainings first, then users, then models; exact matches first."""
    is_complete: bool
    """False if there is more."""
