"""
Which model came out of a training, and does it work? One delivery in, the events that follow out.

The output names the model; what it does not say (half a version, or an output too large to carry) Replicate is asked.
Then the model passes the gate, or an error says why not, and the runtime decides whether to try again. When that gives
up, the failure is an event too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pydantic import JsonValue

from services.extractor.lookup import Replicate, Run, look_up
from services.extractor.outputs import Found, NeedsDestination, NeedsLookup, find_model
from services.extractor.verify import NotThereYet
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed, ModelswapError, PermanentError, code_of
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Event,
    Evidence,
    ExtractionFailed,
    ExtractionRequested,
    ModelReady,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.text import clean
from shared.replicate.errors import NotThere
from shared.replicate.training import Training, TrainingStatus


class NotSucceeded(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """Replicate says that the training did not succeed: there is no model to look for."""

    code = "training_not_succeeded"


class Trainings(Replicate, Protocol):
    """What is asked of Replicate."""

    async def get_training(self, training_id: str) -> Training: ...


class Verify(Protocol):
    """The gate: `Gate.verify`, or `Gate.check_without_run` (a preview pays for no run)."""

    async def __call__(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]: ...


class Extractor:
    """Turns succeeded trainings into models that work."""

    def __init__(self, replicate: Trainings, verify: Verify, *, monotonic: Callable[[], float]) -> None:
        self._replicate = replicate
        self._verify = verify
        self._monotonic = monotonic

    async def handle(self, envelope: Envelope) -> Sequence[Event]:
        """
        The model of the training that *envelope* is about, verified; an error if there is none.

        Where all that is missing is the destination, which state knows, it is told so and asks again.
        """
        began = self._monotonic()
        match envelope.event:
            case TrainingSucceeded() as event:
                try:
                    found, request_id = await self._find_reported(event, envelope.time), None
                except NeedsDestination as error:
                    return [_failed(event, DESTINATION_UNKNOWN, clean(str(error)))]
            case ExtractionRequested() as event:
                found, request_id = await self._find_again(event, envelope.time), event.request_id
            case other:
                raise Malformed(f"the extractor does nothing about {other.key}", code="unexpected_event")
        checks = await self._verify(found.model, request_id=request_id)
        evidence = Evidence(
            shape=found.shape,
            looked_up=found.looked_up,
            made_at=found.made_at,
            rivals=found.rivals or None,
            checks=checks,
            seconds=self._monotonic() - began,
        )
        return [ModelReady(training_id=event.training_id, ref=event.ref, model=found.model, evidence=evidence)]

    def is_answer(self, events: Sequence[Event]) -> bool:
        """Did Replicate have to answer for *events*? That a destination is unknown is said without asking."""
        return any(isinstance(event, ModelReady) for event in events)

    def on_dead_letter(self, envelope: Envelope, error: Exception) -> Sequence[Event]:
        """Return the public event that reports the delivery of *envelope*, which becomes a dead letter."""
        match envelope.event:
            case (TrainingSucceeded() | ExtractionRequested()) as event:
                # An error without a name has a text that was not written for everybody's eyes.
                detail = clean(str(error)) if isinstance(error, ModelswapError) else type(error).__name__
                return [_failed(event, code_of(error), detail)]
        return []

    async def _find_reported(self, event: TrainingSucceeded, now: datetime) -> Found:
        output = event.output
        if event.output_omitted_bytes is not None:
            output = (await self._replicate.get_training(event.training_id)).output
        run = Run(event.training_id, event.started_at, event.completed_at, now)
        return await self._find(output, event.destination, event.trainer, event.trainer_version, run)

    async def _find_again(self, event: ExtractionRequested, now: datetime) -> Found:
        try:
            training = await self._replicate.get_training(event.training_id)
        except NotThere:
            if event.output is None:
                raise
            run = Run(event.training_id, event.started_at, None, now)
            return await self._find(event.output, event.destination, None, event.trainer_version, run)
        if training.status in (TrainingStatus.STARTING, TrainingStatus.PROCESSING):
            # Somebody was told that it succeeded: what Replicate answers may lag behind what it posts.
            raise NotThereYet(f"training {training.id} is still {training.status!r} at Replicate")
        if training.status != TrainingStatus.SUCCEEDED:
            raise NotSucceeded(f"training {training.id} is {training.status!r} at Replicate")
        # Replicate deletes outputs after a while; what was received then still counts.
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
        training_id=event.training_id, ref=event.ref, request_id=request_id, error=error, detail=detail
    )
