"""Requests that the HTTP server refuses before the application sees them, with their complete responses. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from shared.contract.answers import KIND_PREFIX, Problem
from shared.runtime.description import PROBLEM_JSON

MAX_URL_BYTES: Final = 8 * 1024
#: Of all headers together; also of what surrounds a body in chunks, beyond the size of that body.
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
_RETRY_AFTER_SECONDS: Final = 5


class Refusal:
    """The reason why a request is refused, and the complete response."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        self.kind = kind
        problem = Problem(type=KIND_PREFIX + kind, title=kind, status=status, detail=detail)
        body = problem.model_dump_json(exclude_defaults=True).encode()
        headers = {"content-type": PROBLEM_JSON, "content-length": len(body), "connection": "close"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = _RETRY_AFTER_SECONDS
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.answer = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


class Refused(Exception):
    """Ends the parsing of a refused request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.kind)
        self.refusal = refusal


BAD_REQUEST: Final = Refusal(400, "bad-request", "this is not an HTTP/1.1 request")
TIMEOUT: Final = Refusal(408, "request-timeout", "the request did not arrive in time")
URL_TOO_LONG: Final = Refusal(414, "uri-too-long", f"the address may have {MAX_URL_BYTES} bytes")
HEAD_TOO_LARGE: Final = Refusal(
    431, "headers-too-large", f"at most {MAX_HEADERS} headers, of {MAX_HEAD_BYTES} bytes together"
)
TOO_MANY_CONNECTIONS: Final = Refusal(503, "too-many-connections", "too many connections are open: try again later")
OVERLOADED: Final = Refusal(503, "overloaded", "too many requests are worked on: try again in a moment")
REFUSALS: Final = (BAD_REQUEST, TIMEOUT, URL_TOO_LONG, HEAD_TOO_LARGE, TOO_MANY_CONNECTIONS, OVERLOADED)
