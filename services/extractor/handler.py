"""
Extractor: finds and verifies the model of a succeeded training. One delivery in, the follow-up events out.

The output names the model. What it leaves open (a truncated version, an output too large for an event) is looked up at
Replicate. Then the model is verified. An error makes the runtime retry or dead-letter the delivery; with the dead
letter, `extraction.failed` is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.extractor.errors import NeedsDestination, NeedsLookup, NotThereYet
from services.extractor.lookup import Lists, look_up
from services.extractor.outputs import Found, find_model
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed, ModelswapError, PermanentError, code_of
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Event,
    ExtractionFailed,
    ExtractionRequested,
    ModelReady,
    TrainingSucceeded,
)
from shared.contract.identity import ModelRef
from shared.contract.text import clean
from shared.contract.values import Evidence
from shared.replicate.errors import NotThere
from shared.replicate.training import Training, TrainingStatus
from shared.replicate.translate import succeeded
from shared.replicate.webhook_url import Origin


class NotSucceeded(PermanentError):
    """The training did not succeed at Replicate, so it has no model."""

    code = "training_not_succeeded"


class Trainings(Lists, Protocol):
    """The calls to Replicate's API."""

    async def get_training(self, training_id: str) -> Training: ...


class Verify(Protocol):
    """Verifies a model: `Gate.verify`, or `Gate.check_without_run` in a preview, which pays for no run."""

    async def __call__(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]: ...


class Extractor:
    """Handles `TrainingSucceeded` and `ExtractionRequested`."""

    def __init__(self, replicate: Trainings, verify: Verify, *, monotonic: Callable[[], float]) -> None:
        self._replicate = replicate
        self._verify = verify
        self._monotonic = monotonic

    async def handle(self, envelope: Envelope) -> Sequence[Event]:
        """
        Return `ModelReady` for the training of *envelope*; raise an error if it has no verified model.

        If only the destination is missing, return `ExtractionFailed`: state knows it and requests the extraction again.
        """
        began = self._monotonic()
        match envelope.event:
            case TrainingSucceeded() as event:
                reported, request_id = event, None
            case ExtractionRequested() as event:
                reported, request_id = await self._ask_again(event), event.request_id
            case other:
                raise Malformed(f"the extractor does not handle {other.key}", code="unexpected_event")
        try:
            found = await self._find(reported, envelope.time)
        except NeedsDestination as error:
            return [_failed(event, DESTINATION_UNKNOWN, clean(str(error)))]
        checks = await self._verify(found.model, request_id=request_id)
        evidence = Evidence(
            shape=found.shape,
            looked_up=found.looked_up,
            made_at=found.made_at,
            rivals=found.rivals or None,
            checks=checks,
            seconds=self._monotonic() - began,
            retries=envelope.retries,
        )
        return [
            ModelReady(
                training_id=reported.training_id,
                ref=reported.ref,
                user_id=reported.user_id,
                model=found.model,
                evidence=evidence,
            )
        ]

    def is_answer(self, events: Sequence[Event]) -> bool:
        """Return whether *events* prove that Replicate is up; a missing destination is reported without calling it."""
        return any(isinstance(event, ModelReady) for event in events)

    def on_dead_letter(self, envelope: Envelope, error: Exception) -> Sequence[Event]:
        """Return the public event that reports the delivery of *envelope*, which becomes a dead letter."""
        match envelope.event:
            case (TrainingSucceeded() | ExtractionRequested()) as event:
                # The event is public; the text of an unexpected exception may hold secrets.
                detail = clean(str(error)) if isinstance(error, ModelswapError) else type(error).__name__
                return [_failed(event, code_of(error), detail)]
        return []

    async def _ask_again(self, request: ExtractionRequested) -> TrainingSucceeded:
        """Return what Replicate reports of the training now; what it has deleted is taken from *request*."""
        try:
            training = await self._replicate.get_training(request.training_id)
        except NotThere:
            if request.output is None:
                raise
            reported = TrainingSucceeded(training_id=request.training_id)
        else:
            reported = _succeeded(training)
        return reported.model_copy(
            update={
                "ref": request.ref,
                "destination": request.destination,
                "user_id": request.user_id,
                "output": request.output if reported.output is None else reported.output,
                "trainer_version": reported.trainer_version or request.trainer_version,
                "started_at": reported.started_at or request.started_at,
            }
        )

    async def _find(self, reported: TrainingSucceeded, now: datetime) -> Found:
        output = reported.output
        if reported.output_omitted_bytes is not None:
            output = (await self._replicate.get_training(reported.training_id)).output
        try:
            return find_model(
                output,
                destination=reported.destination,
                trainer=reported.trainer,
                trainer_version=reported.trainer_version,
            )
        except NeedsLookup as lookup:
            return await look_up(lookup, reported, self._replicate, now=now)


def _succeeded(training: Training) -> TrainingSucceeded:
    if training.status in (TrainingStatus.STARTING, TrainingStatus.PROCESSING):
        # It was reported as succeeded. Replicate's API may lag behind its webhooks.
        raise NotThereYet(f"training {training.id} is still {training.status!r} at Replicate")
    if training.status != TrainingStatus.SUCCEEDED:
        raise NotSucceeded(f"training {training.id} is {training.status!r} at Replicate")
    return succeeded(training, Origin())


def _failed(event: TrainingSucceeded | ExtractionRequested, error: str, detail: str) -> ExtractionFailed:
    request_id = event.request_id if isinstance(event, ExtractionRequested) else None
    return ExtractionFailed(
        training_id=event.training_id,
        ref=event.ref,
        user_id=event.user_id,
        request_id=request_id,
        error=error,
        detail=detail,
    )
