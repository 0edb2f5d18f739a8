"""What does every HTTP API of ours take and answer in? Pure: times, pages of things, and problems (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ValidationError

Item = TypeVar("Item")

#: A problem's type is this and its kind, such as ``no-model``.
KIND_PREFIX: Final = "urn:modelswap:problem:"
#: Of what is no problem.
_SHOWN_BYTES: Final = 200


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is before or after all times that there are in UTC") from None


#: When something was or is to be. It says its zone, so nobody has to guess it.
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


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
