"""Requests about all trainings: counts, statistics, swaps, search; and the timeline of one. Edge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Path, Query

from services.state.extraction import NoTraining
from services.state.overview import (
    SearchResults,
    SwapStatisticsView,
    TrainingCounts,
    UserSwapView,
    WebhookStatisticsView,
)
from services.state.store import Store
from services.state.timeline import TimelineView
from shared.contract.answers import END, Mistake, Moment, Page
from shared.contract.identity import TrainingName, UserId, parse_ref
from shared.contract.moments import EPOCH, from_microseconds, to_microseconds
from shared.runtime.description import raises
from shared.runtime.http import Cursor, Invalid, Limit, from_cursor, to_cursor

_END: Final = datetime.max.replace(tzinfo=UTC)

Hours = Annotated[int, Query(ge=1, le=168, description="How many hours, the current one included.")]
Wanted = Annotated[
    UserId,
    Query(
        description="A training's id at Replicate, ref or model; the beginning of a user's id; the beginning of a "
        "model's name, or of a word in it."
    ),
]
HitLimit = Annotated[int, Query(ge=1, le=50, description="How many of each kind.")]


@dataclass(frozen=True, slots=True)
class Overviews:
    """Handlers of requests about all trainings."""

    store: Store

    async def count_trainings(self) -> TrainingCounts:
        """Return how many trainings are in each stage; more than 10,000 in one are estimated."""
        return TrainingCounts(items=await self.store.count_trainings())

    async def get_swap_statistics(self, hours: Hours = 24) -> SwapStatisticsView:
        """
        Return the swaps of each of the last hours, and the time from webhook to swap.

        The time is that of swaps by a training: from when the receiver took the webhook of its success, or the
        reconciler found it, to the commit. A swap that waited for an operator counts with all of its wait.
        """
        return await self.store.swap_statistics(hours)

    async def get_webhook_statistics(self, hours: Hours = 24) -> WebhookStatisticsView:
        """Return how many trainings ended in each of the last hours, and how many of these ends no webhook reported."""
        return await self.store.webhook_statistics(hours)

    async def list_swaps(
        self, since: Moment = EPOCH, until: Moment = _END, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[UserSwapView]:
        """
        Return the changes of all users' models from `since` until just before `until`, newest first.

        A page holds more than `limit` if the last change on it is one of several at the same time.
        """
        if until < since:
            raise Invalid(Mistake(pointer="query.until", detail="must not be before `since`"))
        before = from_cursor(cursor, END)
        if before < to_microseconds(until):
            until = from_microseconds(before)
        found = await self.store.list_swaps(since=since, until=until, limit=limit)
        position = to_microseconds(found[-1].at) if found else 0
        return Page(items=found, next_cursor=to_cursor(position) if len(found) >= limit else None)

    async def search(self, q: Wanted, limit: HitLimit = 10) -> SearchResults:
        """Find trainings, users and models."""
        return await self.store.search(q, limit=limit)

    @raises(NoTraining)
    async def get_timeline(self, training_id: Annotated[TrainingName, Path()]) -> TimelineView:
        """
        Return the facts of a training in the order of time, from the request to the last published event.

        Applied events are kept for 30 days, published ones for 7 days; of older trainings there are the request,
        Replicate's times, and the changes of the user's model.
        """
        found = await self.store.find_timeline(parse_ref(training_id) or training_id)
        if found is None:
            raise NoTraining(f"training {training_id} is not registered")
        return found
