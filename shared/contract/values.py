"""Values that events carry: outputs, reasons, causes, effects, sources of progress, evidence of a model. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_json

from shared.contract.identity import TrainingId
from shared.contract.limits import OUTPUT_BYTES

#: Text for people: an error or a cause.
Reason = Annotated[str, Field(max_length=4096)]


def _bounded(output: JsonValue) -> JsonValue:
    # Measured as it is serialized: ``1e15`` is written as ``1000000000000000.0``.
    if len(to_json(output)) > OUTPUT_BYTES:
        raise ValueError(f"takes more than {OUTPUT_BYTES} bytes")
    return output


#: A training's output, unchanged.
Output = Annotated[JsonValue, AfterValidator(_bounded)]


class Cause(StrEnum):
    """
    Why a user's model changed.

    - `training`: a training ended and its model was verified.
    - `rollback`: a rollback to an earlier model.
    - `replay`: an operator replayed a dead letter.
    - `withdrawal`: an operator withdrew the model; the user has none. Only in the history.
    """

    TRAINING = "training"
    ROLLBACK = "rollback"
    REPLAY = "replay"
    WITHDRAWAL = "withdrawal"


#: Cause of a change to another model, which is never a withdrawal.
SwapCause = Literal[Cause.TRAINING, Cause.ROLLBACK, Cause.REPLAY]


class Effect(StrEnum):
    """The effect of a replayed dead letter."""

    SWAPPED = "swapped"  #: The user's current model changed.
    SUPERSEDED = "superseded"  #: The model was verified, but a newer one is already current.
    MOVED = "moved"  #: The training's stage changed; the user's current model did not.
    NOTHING = "nothing"  #: No effect: the fact was already applied.
    DELIVERED = "delivered"  #: A webhook endpoint accepted it, or the event was handed to the endpoints that want it.


class ProgressSource(StrEnum):
    """Where progress comes from."""

    LOG = "log"  #: Parsed from the training's log.
    ESTIMATE = "estimate"  #: Estimated from the elapsed time.


class Retries(BaseModel):
    """A success that was not the first attempt."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    attempt: int = Field(ge=2)
    """The attempt that succeeded."""
    first_failed_at: datetime
    """When the first attempt failed."""
    last_error: str = Field(default="", max_length=255)
    """Error code of the attempt before; empty if that is not known."""


class Evidence(BaseModel):
    """How a model was found, and which checks it passed."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    shape: str
    """The shape of output that named the model."""
    looked_up: bool = False
    """True if the version was found in Replicate's list alone: the output names not even a prefix of it."""
    made_at: datetime | None = None
    """When Replicate registered the version, if that time identified it."""
    rivals: tuple[TrainingId, ...] | None = None
    """Other trainings that may have made the version, by Replicate's data. State checks their destinations."""
    checks: tuple[str, ...]
    """The checks it passed, in order."""
    seconds: float = Field(ge=0)
    """How long the checks took."""
    retries: Retries | None = None
    """How many attempts it took; missing if the first one succeeded."""
