"""
What does it mean that Replicate did not do what it was asked? Pure: an answer that is no success, to an error.

    DependencyDown           it throttles, or nothing reached it: pause, probe, then go on
    ├── NoAnswer             5xx, timeouts, broken connections: the same, but it may have done what it was asked
    └── OperatorNeeded       token or billing: the same, but only a human ends it
    TransientError
    ├── NotThere             404, 422: Replicate says the same of *not yet*, *not any more* and *not yours*
    └── BadAnswer            a success whose body can not be read, or a redirect
    PermanentError
    ├── Refused              any other 4xx
    ├── ForeignAddress       a file that is not on Replicate's hosts
    └── Unknown              asked to start something, and the answer was lost: it may run
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from shared.contract.errors import DependencyDown, ModelswapError, PermanentError, TransientError
from shared.contract.text import clean

_DETAIL_LENGTH: Final = 500
#: Nobody is believed who wants to be left alone for longer.
_MAX_WAIT_SECONDS: Final = 3600.0
_WAIT_IN_WORDS: Final = re.compile(r"(?:resets|available) in ~?([0-9]{1,6}(?:\.[0-9]{1,3})?) ?s", re.ASCII)
_OPERATOR: Final[dict[int, tuple[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: (
        "replicate_unauthorized",
        "does not accept our token: check MODELSWAP_REPLICATE_API_TOKEN",
    ),
    HTTPStatus.PAYMENT_REQUIRED: ("replicate_billing", "wants to be paid: check the account's billing"),
    HTTPStatus.FORBIDDEN: ("replicate_forbidden", "does not let our token do this: check whose it is"),
}


class NoAnswer(DependencyDown):
    """Replicate is away, or its answer was lost on the way: what we asked for may have happened all the same."""

    code = "replicate_down"
    may_concern_one = True


class OperatorNeeded(DependencyDown):
    """Replicate is up, but does nothing for us until a human changed the token or the billing."""

    code = "operator_needed"


class NotThere(TransientError):  # noqa: N818 (it is what was seen, and reads as one)
    """Replicate knows no such thing, yet or any more. How patient to be is the caller's to say."""

    code = "replicate_not_there"


class BadAnswer(TransientError):  # noqa: N818 (likewise)
    """Replicate said yes, but what it said can not be read."""

    code = "replicate_bad_answer"


class Refused(PermanentError):  # noqa: N818 (likewise)
    """Replicate does not do this, today or tomorrow."""

    code = "replicate_refused"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ForeignAddress(PermanentError):  # noqa: N818 (likewise)
    """An output names an address that is none of Replicate's: nothing is fetched from there."""

    code = "foreign_address"


class Unknown(PermanentError):  # noqa: N818 (likewise)
    """We asked Replicate to start something and do not know whether it did. Look for it before asking again."""

    code = "replicate_unknown_outcome"


def error_for(what: str, status: int, headers: Mapping[str, str], body: bytes) -> ModelswapError:
    """The error that Replicate's answer to *what* (``get training x``) stands for. *headers* have lower-case names."""
    problem = _problem(body)
    message = f"{what}: {status} {_detail(problem)}".rstrip()
    if operator := _OPERATOR.get(status):
        code, meaning = operator
        return OperatorNeeded(f"Replicate {meaning} ({message})", code=code)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
        return NotThere(message)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return DependencyDown(message, retry_after_seconds=_wait_seconds(headers, problem), code="replicate_throttled")
    if status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return NoAnswer(message, retry_after_seconds=_wait_seconds(headers, problem))
    if status >= HTTPStatus.BAD_REQUEST:
        return Refused(message, status=status)
    return BadAnswer(f"{message}: is MODELSWAP_REPLICATE_API_URL right?")


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _detail(problem: Mapping[str, Any]) -> str:
    match problem:
        case {"detail": str(detail)} | {"errors": [{"detail": str(detail)}, *_]} | {"title": str(detail)}:
            return clean(detail, _DETAIL_LENGTH)
        case {"detail": detail}:
            return clean(json.dumps(detail), _DETAIL_LENGTH)
    return ""


def _wait_seconds(headers: Mapping[str, str], problem: Mapping[str, Any]) -> float | None:
    """The longest of the waits that Replicate asks for, in any of the three places where it does."""
    waits = [
        _header_seconds(headers),
        _number(problem.get("retry_after")),
        _number((_WAIT_IN_WORDS.search(_detail(problem)) or [None, None])[1]),
    ]
    known = [min(wait, _MAX_WAIT_SECONDS) for wait in waits if wait is not None]
    return max(known, default=None)


def _header_seconds(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is not None:
        return seconds
    try:
        # Measured by the server's own clock, because ours may be off.
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return max(wait.total_seconds(), 0.0)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 else None
