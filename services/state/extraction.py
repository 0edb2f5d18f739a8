"""Requests to extract a training's model again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import JsonValue

from services.state.changes import Changes, OutboxEvent, Training, TrainingChange
from services.state.transitions import Fact, Stage, next_stage
from shared.contract.errors import PermanentError
from shared.contract.events import DESTINATION_UNKNOWN, Event, ExtractionFailed, ExtractionRequested
from shared.contract.text import is_storable

#: A longer output is left out of the request: a message is at most 1 MiB, and Replicate is asked first.
_OUTPUT_LIMIT: Final = 512 * 1024

_HAS_MODEL: Final = ("has_model", "has its model already: there is nothing to look for")
#: Error code and text by the stages in which extraction cannot be retried.
_NOT_RETRYABLE: Final[Mapping[Stage, tuple[str, str]]] = {
    Stage.REQUESTED: ("still_running", "has not ended: its model is looked for when it succeeds"),
    Stage.RUNNING: ("still_running", "has not ended: its model is looked for when it succeeds"),
    Stage.FAILED: ("training_failed", "failed, so it made no model: start another one"),
    Stage.CANCELED: ("training_canceled", "was canceled, so it made no model: start another one"),
    Stage.ACTIVE: _HAS_MODEL,
    Stage.REPLACED: _HAS_MODEL,
    Stage.SUPERSEDED: _HAS_MODEL,
}


class NoTraining(PermanentError):
    """The training is not registered, or the user has none whose extraction can be retried."""

    code = "no_training"


class NoOutput(PermanentError):
    """Replicate has sent no output of the training."""

    code = "no_output"


class NotRetryable(PermanentError):
    """The training's extraction cannot be retried in its stage."""

    code = "not_retryable"
    codes = tuple(dict.fromkeys(code for code, _ in _NOT_RETRYABLE.values()))


def retry_extraction(training: Training, *, request_id: UUID, now: datetime) -> Changes:
    """
    Request the extraction of *training* again.

    Raises:
        NotRetryable: if its stage does not allow it.

    """
    stage = next_stage(training.stage, Fact.EXTRACTION_RETRIED)
    if stage is None or training.training_id is None:
        code, why = _NOT_RETRYABLE[training.stage]
        raise NotRetryable(f"training {training.training_id or training.ref} {why}", code=code)
    event = requested_extraction(training, training.training_id, request_id)
    return Changes(
        trainings=[TrainingChange(training.ref, stage=stage)],
        outbox=[OutboxEvent.of(event, training.user_id, training.generation, now=now)],
    )


def requested_extraction(training: Training, training_id: str, request_id: UUID) -> ExtractionRequested:
    """Return the request to extract again, with the stored output if it can be sent."""
    return ExtractionRequested(
        training_id=training_id,
        request_id=request_id,
        ref=training.ref,
        destination=training.destination,
        user_id=training.user_id,
        output=_sendable(training.output),
        trainer_version=training.trainer_version,
        started_at=training.started_at,
    )


def lacks_destination(event: Event) -> bool:
    """Return whether the first extraction failed only for lack of the destination in the webhook's address."""
    return isinstance(event, ExtractionFailed) and event.error == DESTINATION_UNKNOWN and event.request_id is None


def _sendable(output: str | None) -> JsonValue:
    """Return a stored output, or None if it is too long or not storable JSON: then Replicate must still have it."""
    if output is None or len(output) > _OUTPUT_LIMIT:
        return None
    try:
        value: JsonValue = json.loads(output)
        return value if is_storable(value) else None
    except (ValueError, RecursionError):
        return None
