"""Types that all our HTTP APIs share: timestamps, pages of items, problems (RFC 9457). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Strict, ValidationError
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")

#: Above every number, so that a page without a cursor begins with the newest item.
END: Final = 2**63 - 1
#: Prefix of a problem's type; its kind follows, such as ``no-model``.
KIND_PREFIX: Final = "urn:modelswap:problem:"
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
#: How much of a response body is quoted where it is not problem+json.
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
        # Outside the range of UTC datetimes: clamp to its end, which compares the same with every stored time.
        return datetime.min.replace(tzinfo=UTC) if moment.year == 1 else datetime.max.replace(tzinfo=UTC)


#: A timestamp in RFC 3339 with its UTC offset, converted to UTC.
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]


def _no_other_type(number: object) -> object:
    # Pydantic would also take "5", and true for 1.
    if isinstance(number, bool | str):
        raise PydanticCustomError("number_type", "must be a number")
    return number


#: A JSON boolean; strings and numbers are not coerced.
Flag = Annotated[bool, Strict()]
#: Refuses strings and booleans for a number. Must be the last annotation, or the schema loses the limits before it.
NUMBER: Final = BeforeValidator(_no_other_type)


class Page(BaseModel, Generic[Item]):
    """One page of items, newest first, with the cursor of the next page."""

    items: Sequence[Item]
    next_cursor: str | None


class Mistake(BaseModel):
    """One invalid part of a request."""

    #: Which part: ``#/destination`` in the body, else like ``query.limit``.
    pointer: str
    detail: str


class Problem(BaseModel):
    """Why a request failed, as problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[Mistake] = ()


class _Reason(BaseModel):
    detail: str
    errors: Sequence[Mistake] = ()


def said_in(answer: bytes) -> str:
    """Return the reason of a failed request: the problem's detail, or the beginning of a body that is no problem."""
    try:
        reason = _Reason.model_validate_json(answer)
    except ValidationError:
        return answer[:_SHOWN_BYTES].decode(errors="replace")
    return f"{reason.errors[0].pointer}: {reason.errors[0].detail}" if reason.errors else reason.detail


def kind_in(answer: bytes) -> str | None:
    """Return the kind of problem in a response body; None if it is not one of ours, such as a proxy's own 404."""
    try:
        kind = Problem.model_validate_json(answer).type
    except ValidationError:
        return None
    return kind.removeprefix(KIND_PREFIX) if kind.startswith(KIND_PREFIX) else None
