"""
What does Replicate say about a training? Pure: bytes to a `Training`, or a reason why not.

A webhook's body *is* the training, and no field of it is promised. Only ``id`` and ``status`` are needed; whatever else
is missing, of the wrong type or out of range counts as not there, because a date nobody needs must not sink a
completion. Two things are refused, since a name with a NUL in it is an attack and not noise: ids and outputs that
can not be stored as they came. A run of a model (`Prediction`) is answered with the same object.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from shared.contract.errors import PermanentError
from shared.contract.identity import TrainingId, TrainingName
from shared.contract.text import clean, is_storable

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class NotATraining(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """These bytes are no training, or one that can not be stored."""

    code = "not_a_training"


class TrainingStatus(StrEnum):
    """The statuses that are known; others are passed on as they came."""

    STARTING = "starting"  #: Queued, or its machine boots.
    PROCESSING = "processing"  #: It runs.
    SUCCEEDED = "succeeded"  #: It ended, and a version was registered. Whether that works is not known.
    FAILED = "failed"  #: It ended with an error; possibly after the training itself, while its version was built.
    CANCELED = "canceled"  #: Ended by its user, or by a deadline while it ran.
    ABORTED = "aborted"  #: Ended before it ran.


_ENDS: Final = frozenset(
    {TrainingStatus.SUCCEEDED, TrainingStatus.FAILED, TrainingStatus.CANCELED, TrainingStatus.ABORTED}
)


def _or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


def _text_only(value: Any) -> Any:
    # pydantic would read a number as seconds since 1970.
    return value if isinstance(value, str) else None


def _in_utc(moment: datetime | None) -> datetime | None:
    try:
        return moment and moment.astimezone(UTC)
    except OverflowError:
        return None


def _storable(value: Any) -> Any:
    if not is_storable(value):
        raise ValueError("holds a NUL, half a surrogate pair or a number that is none")
    return value


def _error_text(error: Any) -> str | None:
    if error is None or isinstance(error, str):
        return clean(error or "") or None
    return clean(json.dumps(error, ensure_ascii=False))


def _log_text(logs: Any) -> str:
    if isinstance(logs, list):
        logs = "\n".join(line for line in logs if isinstance(line, str))
    return logs.replace("\x00", "") if isinstance(logs, str) else ""


#: An aware moment in UTC; None for whatever is none.
SoftMoment = Annotated[
    AwareDatetime | None, AfterValidator(_in_utc), WrapValidator(_or_none), BeforeValidator(_text_only)
]
_Name = Annotated[str | None, Field(max_length=400), AfterValidator(_storable), WrapValidator(_or_none)]
_Input = Annotated[dict[str, Any], BeforeValidator(lambda value: value if isinstance(value, dict) else {})]
_Address = Annotated[str | None, Field(max_length=4096), AfterValidator(_storable), WrapValidator(_or_none)]


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: TrainingName
    #: A `TrainingStatus`, or one that Replicate added since.
    status: Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_storable)]
    #: As it came, whatever its shape.
    output: Annotated[JsonValue, AfterValidator(_storable)] = None
    error: Annotated[str | None, BeforeValidator(_error_text)] = None

    @property
    def has_ended(self) -> bool:
        """Is this its last status? Unknown ones are not."""
        return self.status in _ENDS


class Training(_Job):
    """One training as Replicate describes it."""

    id: TrainingId
    #: The trainer (``owner/name``) and its version: never the result. Replicate calls them ``model`` and ``version``.
    trainer: _Name = Field(default=None, alias="model")
    trainer_version: _Name = Field(default=None, alias="version")
    #: Where its webhooks go, if Replicate says so: nobody promised that.
    webhook: _Address = Field(default=None, repr=False)
    #: May hold whole archives as data URIs.
    input: _Input = Field(default_factory=dict, repr=False)
    logs: Annotated[str, BeforeValidator(_log_text)] = Field(default="", repr=False)
    created_at: SoftMoment = None
    started_at: SoftMoment = None
    completed_at: SoftMoment = None


class Prediction(_Job):
    """One run of a model."""

    #: Of the model that was run, without its name.
    version: _Name = None
    input: _Input = Field(default_factory=dict, repr=False)


_AnyJob = TypeVar("_AnyJob", bound=_Job)


def decode_training(body: bytes) -> Training:
    """
    Read the training in *body*.

    Raises:
        NotATraining: if there is none, or one with an id, status or output that can not be stored.

    """
    return _decode(Training, body)


def decode_prediction(body: bytes) -> Prediction:
    """
    Read the prediction in *body*.

    Raises:
        NotATraining: as `decode_training`.

    """
    return _decode(Prediction, body)


def _decode(kind: type[_AnyJob], body: bytes) -> _AnyJob:
    try:
        try:
            return kind.model_validate_json(body)
        except ValidationError:
            if not _SURROGATE.search(body):
                raise
            return kind.model_validate_json(_without_surrogates(body))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise NotATraining(f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}") from error


def _without_surrogates(body: bytes) -> bytes:
    """
    The same JSON with ``?`` for each half of a surrogate pair, which pydantic's reader refuses anywhere.

    They come from text that somebody cut in the middle of an emoji: harmless in a log, refused where a name stands.
    """
    try:
        document = json.loads(body.decode())
        names = [document.get(name) for name in ("id", "status", "output")] if isinstance(document, dict) else []
        if not is_storable(names):
            raise NotATraining("half a surrogate pair in its id, status or output")
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        raise NotATraining("not JSON, or nested too deeply") from None
