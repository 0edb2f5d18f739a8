"""
Errors of Replicate's API, and the mapping from HTTP responses to them. Pure.

    DependencyDown           throttled, or no connection: pause and probe, then continue
    ├── NoAnswer             5xx, timeout, broken connection: likewise, but the request may have had its effect
    └── OperatorNeeded       token or billing: likewise, but only an operator can fix it
    TransientError
    ├── NotThere             404, 422: Replicate answers alike for *not yet*, *not any more* and *not yours*
    └── BadAnswer            a success with an invalid body, or a redirect
    PermanentError
    ├── Refused              any other 4xx
    ├── ForeignAddress       an output file that is not on Replicate's hosts
    └── Unknown              the response to a start was lost: the training may run
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from pydantic import JsonValue

from shared.contract.errors import DependencyDown, ModelswapError, PermanentError, TransientError
from shared.contract.text import clean

_DETAIL_LENGTH: Final = 500
#: Cap for Retry-After.
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
    """Replicate is down, or its response was lost: the request may have had its effect."""

    code = "replicate_down"
    may_concern_one = True


class OperatorNeeded(DependencyDown):
    """Replicate refuses all our requests until an operator fixes the token or the billing."""

    code = "operator_needed"


class NotThere(TransientError):
    """Replicate does not have it, not yet or not any more. The caller decides how long to retry."""

    code = "replicate_not_there"


class BadAnswer(TransientError):
    """Replicate reported success with an invalid body, or redirected."""

    code = "replicate_bad_answer"


class Refused(PermanentError):
    """Replicate refused the request for good."""

    code = "replicate_refused"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ForeignAddress(PermanentError):
    """An output names a URL that is not on Replicate's hosts: it is not fetched."""

    code = "foreign_address"


class Unknown(PermanentError):
    """The response to a start was lost, so it may have happened. Look for it before trying again."""

    code = "replicate_unknown_outcome"


def error_for(what: str, status: int, headers: Mapping[str, str], body: bytes) -> ModelswapError:
    """Map the response to *what* (``get training x``) to an error. *headers* have lower-case names."""
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


def _problem(body: bytes) -> Mapping[str, JsonValue]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _detail(problem: Mapping[str, JsonValue]) -> str:
    match problem:
        case {"detail": str(detail)} | {"errors": [{"detail": str(detail)}, *_]} | {"title": str(detail)}:
            return clean(detail, _DETAIL_LENGTH)
        case {"detail": detail}:
            return clean(json.dumps(detail), _DETAIL_LENGTH)
    return ""


def _wait_seconds(headers: Mapping[str, str], problem: Mapping[str, JsonValue]) -> float | None:
    """Return the longest wait that the response asks for: in Retry-After, in its JSON, or in its text."""
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
        # Relative to the server's Date, because our clock may differ.
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return max(wait.total_seconds(), 0.0)


def _number(value: JsonValue) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 else None
