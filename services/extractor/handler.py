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

from pydantic import JsonValue

from services.extractor.errors import NeedsDestination, NeedsLookup, NotThereYet
from services.extractor.lookup import Replicate, Run, look_up
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
from shared.contract.identity import ModelName, ModelRef
from shared.contract.text import clean
from shared.contract.values import Evidence
from shared.replicate.errors import NotThere
from shared.replicate.training import Training, TrainingStatus


class NotSucceeded(PermanentError):
    """The training did not succeed at Replicate, so it has no model."""

    code = "training_not_succeeded"


class Trainings(Replicate, Protocol):
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
                try:
                    found, request_id = await self._find_reported(event, envelope.time), None
                except NeedsDestination as error:
                    return [_failed(event, DESTINATION_UNKNOWN, clean(str(error)))]
            case ExtractionRequested() as event:
                found, request_id = await self._find_requested(event, envelope.time), event.request_id
            case other:
                raise Malformed(f"the extractor does not handle {other.key}", code="unexpected_event")
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
                training_id=event.training_id,
                ref=event.ref,
                user_id=event.user_id,
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

    async def _find_reported(self, event: TrainingSucceeded, now: datetime) -> Found:
        output = event.output
        if event.output_omitted_bytes is not None:
            output = (await self._replicate.get_training(event.training_id)).output
        run = Run(event.training_id, event.started_at, event.completed_at, now)
        return await self._find(output, event.destination, event.trainer, event.trainer_version, run)

    async def _find_requested(self, event: ExtractionRequested, now: datetime) -> Found:
        try:
            training = await self._replicate.get_training(event.training_id)
        except NotThere:
            if event.output is None:
                raise
            run = Run(event.training_id, event.started_at, None, now)
            return await self._find(event.output, event.destination, None, event.trainer_version, run)
        if training.status in (TrainingStatus.STARTING, TrainingStatus.PROCESSING):
            # The event says that it succeeded. Replicate's API may lag behind its webhooks.
            raise NotThereYet(f"training {training.id} is still {training.status!r} at Replicate")
        if training.status != TrainingStatus.SUCCEEDED:
            raise NotSucceeded(f"training {training.id} is {training.status!r} at Replicate")
        # Replicate deletes outputs after a while; then the stored output is used.
        return await self._find(
            event.output if training.output is None else training.output,
            event.destination,
            training.trainer,
            training.trainer_version or event.trainer_version,
            Run(training.id, training.started_at or event.started_at, training.completed_at, now),
        )

    async def _find(
        self,
        output: JsonValue,
        destination: ModelName | None,
        trainer: str | None,
        trainer_version: str | None,
        run: Run,
    ) -> Found:
        try:
            return find_model(output, destination=destination, trainer=trainer, trainer_version=trainer_version)
        except NeedsLookup as lookup:
            return await look_up(lookup, run, self._replicate)


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
