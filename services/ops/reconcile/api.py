"""What are operators shown of overdue trainings? Edge: one route of their API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import APIRouter, Query

from services.ops.reconcile.views import Counts, Outcome, Reconciliation, RecoveryView, RoundView, door_seems_broken
from shared.runtime.clock import now

Most = Annotated[int, Query(ge=0, le=200)]


class Store(Protocol):
    """Where it is remembered what was done."""

    async def last_round(self) -> RoundView: ...

    async def counts(self, now: datetime) -> Mapping[Outcome, Counts]: ...

    async def latest(self, limit: int) -> list[RecoveryView]: ...


def reconciliation_router(store: Store, *, calls_per_minute: int) -> APIRouter:
    """``GET /reconciliation``."""
    router = APIRouter()

    @router.get("/reconciliation")
    async def reconciliation(limit: Most = 20) -> Reconciliation:
        """Whether what Replicate tells reaches us: how many trainings were recovered, and what is overdue."""
        counts = await store.counts(now())
        recovered = counts.get(Outcome.RECOVERED, Counts())
        return Reconciliation(
            door_seems_broken=door_seems_broken(recovered),
            recovered=recovered,
            given_up=counts.get(Outcome.GIVEN_UP, Counts()),
            never_started=counts.get(Outcome.NEVER_STARTED, Counts()),
            last_round=await store.last_round(),
            calls_per_minute=calls_per_minute,
            trainings=await store.latest(limit),
        )

    return router
