"""What does every HTTP API of ours take and answer in? Pure: times, pages of things, and problems (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Strict, ValidationError
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")

#: A problem's type is this and its kind, such as ``no-model``.
KIND_PREFIX: Final = "urn:modelswap:problem:"
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
#: Of what is no problem.
_SHOWN_BYTES: Final = 200


def _written_out(moment: object) -> object:
    # Pydantic would also take a number of seconds, or of milliseconds, or a day.
    if isinstance(moment, datetime) or (isinstance(moment, str) and _RFC_3339.fullmatch(moment)):
        return moment
    raise ValueError("must be a date and time with its offset, such as 2026-11-24T12:00:00Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        # Before or after all times that there are in UTC; so is the end of these, for all that happens in between.
        return datetime.min.replace(tzinfo=UTC) if moment.year == 1 else datetime.max.replace(tzinfo=UTC)


#: When something was or is to be. It says its zone, so nobody has to guess it.
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]


def _no_other_type(number: object) -> object:
    # Pydantic would also take "5", and true for 1.
    if isinstance(number, bool | str):
        raise PydanticCustomError("number_type", "must be a number")
    return number


#: True or false as JSON has them, and nothing that could be taken for one.
Flag = Annotated[bool, Strict()]
#: Likewise for a number. It stands last, behind the limits, which the schema would lose otherwise.
NUMBER: Final = BeforeValidator(_no_other_type)


class Page(BaseModel, Generic[Item]):
    """Some of the items, newest first, and where the next ones are."""

    items: Sequence[Item]
    next_cursor: str | None


class Mistake(BaseModel):
    """What is wrong with one part of a request."""

    #: Which part: ``#/destination`` in the body, else like ``query.limit``.
    pointer: str
    detail: str


class Problem(BaseModel):
    """Why a request was not done."""

    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[Mistake] = ()


class _Said(BaseModel):
    detail: str
    errors: Sequence[Mistake] = ()


def said_in(answer: bytes) -> str:
    """Why something was not done, by the body of the answer: what a problem says, or else how the body begins."""
    try:
        said = _Said.model_validate_json(answer)
    except ValidationError:
        return answer[:_SHOWN_BYTES].decode(errors="replace")
    return f"{said.errors[0].pointer}: {said.errors[0].detail}" if said.errors else said.detail


def kind_in(answer: bytes) -> str | None:
    """Which of our problems an answer is; None: it is none of ours, such as a proxy's own 404."""
    try:
        kind = Problem.model_validate_json(answer).type
    except ValidationError:
        return None
    return kind.removeprefix(KIND_PREFIX) if kind.startswith(KIND_PREFIX) else None
