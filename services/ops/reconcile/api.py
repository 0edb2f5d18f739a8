"""The operators' routes for reconciliation. Edge."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import Path, Query

from services.ops.audit.first import noted_first
from services.ops.reconcile.store import Store
from services.ops.reconcile.trainings import RetryRefused, StateRefused
from services.ops.reconcile.views import (
    ExtractionRetried,
    Reconciliation,
    RecoveryCounts,
    RecoveryOutcome,
    RetryExtraction,
    webhooks_seem_lost,
)
from shared.contract.identity import TrainingName
from shared.runtime.clock import now
from shared.runtime.description import raises
from shared.runtime.http import Asker, Router

Most = Annotated[int, Query(ge=0, le=200)]


class State(Protocol):
    """State's API."""

    async def retry_extraction(self, training: str) -> None: ...


def reconciliation_router(store: Store, state: State, *, calls_per_minute: int) -> Router:
    router = Router()

    @router.get("/reconciliation", tags=["reconciliation"])
    async def reconciliation(limit: Most = 20) -> Reconciliation:
        """Whether webhooks arrive: how many trainings were recovered without one, and which are overdue."""
        counts = await store.counts(now())
        recovered = counts.get(RecoveryOutcome.RECOVERED, RecoveryCounts())
        return Reconciliation(
            webhooks_seem_lost=webhooks_seem_lost(recovered),
            recovered=recovered,
            given_up=counts.get(RecoveryOutcome.GIVEN_UP, RecoveryCounts()),
            never_started=counts.get(RecoveryOutcome.NEVER_STARTED, RecoveryCounts()),
            last_round=await store.last_round(),
            calls_per_minute=calls_per_minute,
            set_aside=await store.set_aside(),
            trainings=await store.latest(limit),
        )

    @router.post("/trainings/{training_id}/retry-extraction", tags=["reconciliation"])
    @raises(RetryRefused)
    async def retry_extraction(
        training_id: Annotated[TrainingName, Path()], body: RetryExtraction, asker: Asker
    ) -> ExtractionRetried:
        """Retry the extraction of a training that succeeded without a usable model, for a reason."""
        entry = (asker.name, "training.retry_extraction", f"training {training_id}", body.reason)
        try:
            async with noted_first(store.audit, entry, "another extraction", refusal=StateRefused):
                await state.retry_extraction(training_id)
        except StateRefused as error:
            raise RetryRefused(str(error)) from error
        return ExtractionRetried(training_id=training_id)

    return router
