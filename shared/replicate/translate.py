"""
Translates the training in a webhook or API response to an event. Pure.

A webhook has no event type: start, log and completion are distinguished by the status and the fields that are set. The
training's ``model`` and ``version`` are those of the trainer, never those of the resulting model.
"""

from __future__ import annotations

from typing import Final, TypedDict
from uuid import UUID

from pydantic import JsonValue, TypeAdapter

from shared.contract.errors import PermanentError
from shared.contract.events import (
    TrainingCanceled,
    TrainingEvent,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import TrainingId
from shared.contract.limits import OUTPUT_BYTES
from shared.replicate.progress import read_progress
from shared.replicate.training import Training, TrainingStatus
from shared.replicate.webhook_url import Claim, Origin

#: Maximum growth of JSON when it is serialized again: ``1e15`` becomes ``1000000000000000.0``.
_GROWTH: Final = 8

_json: Final = TypeAdapter[JsonValue](JsonValue)


class UnknownStatus(PermanentError):
    """The training has a status unknown to this version; guessing could swap or drop a model."""

    code = "unknown_status"


class _About(TypedDict):
    """The fields of every event."""

    training_id: TrainingId
    ref: UUID | None
    called_ref: UUID | None
    recovered: bool


def translate(
    training: Training, origin: Origin, *, size_bytes: int | None = None, recovered: bool = False
) -> TrainingEvent:
    """
    Return the event that *training* reports; *size_bytes* is the size of the body it was decoded from, if known.

    Destination, steps and user are taken from a confirmed *origin* only, never from a called ref.

    Raises:
        UnknownStatus: if its status is not a `TrainingStatus`.

    """
    about = _about(training, origin, recovered=recovered)
    match training.status:
        case TrainingStatus.STARTING:
            return TrainingStarted(**about, started_at=training.started_at)
        case TrainingStatus.PROCESSING if not training.logs:
            return TrainingStarted(**about, started_at=training.started_at)
        case TrainingStatus.PROCESSING:
            return _progressed(training, origin.claim, about)
        case TrainingStatus.SUCCEEDED:
            return succeeded(training, origin, size_bytes=size_bytes, recovered=recovered)
        case TrainingStatus.FAILED:
            reason = training.error or "Replicate gave no reason"
            return TrainingFailed(**about, reason=reason, completed_at=training.completed_at)
        case TrainingStatus.CANCELED | TrainingStatus.ABORTED as status:
            return TrainingCanceled(**about, reason=str(status), completed_at=training.completed_at)
        case unknown:
            raise UnknownStatus(
                f"training {training.id} has the status {unknown!r}. Look it up at Replicate; "
                "when a later version of modelswap knows the status, replay this dead letter"
            )


def succeeded(
    training: Training, origin: Origin, *, size_bytes: int | None = None, recovered: bool = False
) -> TrainingSucceeded:
    """Return the event that reports the success of *training*; arguments as for `translate`."""
    claim = origin.claim
    # The output of a small body cannot exceed the limit, so it is not measured.
    is_small = size_bytes is not None and size_bytes <= OUTPUT_BYTES // _GROWTH
    size = 0 if is_small else len(_json.dump_json(training.output))
    too_large = size > OUTPUT_BYTES
    return TrainingSucceeded(
        **_about(training, origin, recovered=recovered),
        destination=claim.destination if claim else None,
        user_id=claim.user_id if claim else None,
        output=None if too_large else training.output,
        output_omitted_bytes=size if too_large else None,
        trainer=training.trainer,
        trainer_version=training.trainer_version,
        error=training.error,
        created_at=training.created_at,
        started_at=training.started_at,
        completed_at=training.completed_at,
    )


def _about(training: Training, origin: Origin, *, recovered: bool) -> _About:
    ref = origin.claim.ref if origin.claim else None
    return _About(training_id=training.id, ref=ref, called_ref=origin.called_ref, recovered=recovered)


def _progressed(training: Training, claim: Claim | None, about: _About) -> TrainingProgressed:
    known = dict(training.input)
    if claim and claim.total_steps:
        known.setdefault("steps", claim.total_steps)
    progress = read_progress(training.logs, known)
    if progress is None:
        return TrainingProgressed(**about)
    return TrainingProgressed(**about, step=progress.step, total=progress.total, fraction=progress.fraction)
