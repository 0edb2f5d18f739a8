"""
Replicate's training and prediction objects: decoded from JSON. Pure.

A webhook's body *is* the training, and Replicate guarantees none of its fields. Only ``id`` and ``status`` are
required. Any other field that is missing, of the wrong type or out of range becomes empty, because an optional field
must not make us miss a completion. Only an id, status or output that cannot be stored unchanged is refused: a NUL in
those is an attack. A run of a model (`Prediction`) has the same format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, TypeVar

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

from shared.contract.checked import STORABLE
from shared.contract.errors import PermanentError
from shared.contract.identity import TrainingId, TrainingName
from shared.contract.moments import in_utc
from shared.contract.text import clean, is_storable

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class NotATraining(PermanentError):
    """The body is not a training, or one that cannot be stored."""

    code = "not_a_training"


class TrainingStatus(StrEnum):
    """The known statuses; others are passed on unchanged."""

    STARTING = "starting"  #: Queued, or its machine boots.
    PROCESSING = "processing"  #: Running.
    SUCCEEDED = "succeeded"  #: Ended, and a version was registered, which is not verified.
    FAILED = "failed"  #: Ended with an error, possibly while the version was built after the training itself.
    CANCELED = "canceled"  #: Ended by its user, or by a deadline while it ran.
    ABORTED = "aborted"  #: Ended before it ran.


_ENDS: Final = frozenset(
    {TrainingStatus.SUCCEEDED, TrainingStatus.FAILED, TrainingStatus.CANCELED, TrainingStatus.ABORTED}
)


def _or_none(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError:
        return None


def _text_only(value: object) -> object:
    # pydantic would parse a number as seconds since 1970.
    return value if isinstance(value, str) else None


def _error_text(error: JsonValue) -> str | None:
    if error is None or isinstance(error, str):
        return clean(error or "") or None
    return clean(json.dumps(error, ensure_ascii=False))


def _log_text(logs: JsonValue) -> str:
    if isinstance(logs, list):
        logs = "\n".join(line for line in logs if isinstance(line, str))
    return logs.replace("\x00", "") if isinstance(logs, str) else ""


#: A timestamp converted to UTC; None if it is missing or invalid, such as the zero of Go.
SoftMoment = Annotated[
    Annotated[AwareDatetime, AfterValidator(in_utc)] | None, WrapValidator(_or_none), BeforeValidator(_text_only)
]
_Name = Annotated[str | None, Field(max_length=400), STORABLE, WrapValidator(_or_none)]
_Input = Annotated[dict[str, JsonValue], BeforeValidator(lambda value: value if isinstance(value, dict) else {})]
_Address = Annotated[str | None, Field(max_length=4096), STORABLE, WrapValidator(_or_none)]


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: TrainingName
    #: A `TrainingStatus`, or a status unknown to this version.
    status: Annotated[str, StringConstraints(min_length=1, max_length=100), STORABLE]
    #: The output as received, of any shape.
    output: Annotated[JsonValue, STORABLE] = None
    error: Annotated[str | None, BeforeValidator(_error_text)] = None

    @property
    def has_ended(self) -> bool:
        """Whether the status is final; an unknown one is not."""
        return self.status in _ENDS


class Training(_Job):
    """One training as Replicate reports it."""

    id: TrainingId
    #: The trainer (``owner/name``) and its version, never the resulting model. Replicate's ``model`` and ``version``.
    trainer: _Name = Field(default=None, alias="model")
    trainer_version: _Name = Field(default=None, alias="version")
    #: The training's webhook URL. Undocumented, so it may be missing.
    webhook: _Address = Field(default=None, repr=False)
    #: May contain whole archives as data URIs.
    input: _Input = Field(default_factory=dict, repr=False)
    logs: Annotated[str, BeforeValidator(_log_text)] = Field(default="", repr=False)
    created_at: SoftMoment = None
    started_at: SoftMoment = None
    completed_at: SoftMoment = None


class Prediction(_Job):
    """One run of a model."""

    #: Version id of the model that was run, without the model's name.
    version: _Name = None
    input: _Input = Field(default_factory=dict, repr=False)


_AnyJob = TypeVar("_AnyJob", bound=_Job)


def decode_training(body: bytes) -> Training:
    """
    Decode the training in *body*.

    Raises:
        NotATraining: if it is not one, or its id, status or output cannot be stored.

    """
    return _decode(Training, body)


def decode_prediction(body: bytes) -> Prediction:
    """
    Decode the prediction in *body*.

    Raises:
        NotATraining: as `decode_training`.

    """
    return _decode(Prediction, body)


def _decode(kind: type[_AnyJob], body: bytes) -> _AnyJob:
    try:
        try:
            return kind.model_validate_json(body)
        except ValidationError:
            whole = without_surrogates(body, except_in=("id", "status", "output"))
            if whole is None:
                raise
            return kind.model_validate_json(whole)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise NotATraining(f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}") from error


def without_surrogates(body: bytes, *, except_in: Sequence[str] = ()) -> bytes | None:
    """
    Replace each lone surrogate, which pydantic's JSON parser refuses, by ``?``; return None if there seems to be none.

    They come from text that was cut within an emoji: harmless in a log or a prompt.

    Raises:
        NotATraining: if there is one in the fields *except_in*, or *body* is no JSON.

    """
    if not _SURROGATE.search(body):
        return None
    try:
        document = json.loads(body.decode())
        fields = [document.get(name) for name in except_in] if isinstance(document, dict) else []
        if not is_storable(fields):
            raise NotATraining(f"half a surrogate pair in its {', '.join(except_in)}")
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        raise NotATraining("not JSON, or nested too deeply") from None
