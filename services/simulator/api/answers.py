"""Shared parts of all calls of the simulated API: refusals, bodies, addresses and pages. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.simulator.pages import page

#: Texts of the refusals that every call may answer with.
_TEXTS: Final = {
    401: {"title": "Unauthenticated", "detail": "You did not pass a valid authentication token"},
    402: {"title": "Billing required", "detail": "You need to set up billing to run this model."},
    404: {"detail": "The requested resource could not be found."},
    429: {"detail": "Request was throttled."},
}
INVALID: Final = "Input validation failed"

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Response]]


class Call(NamedTuple):
    """One call of the API; faults are ordered by its *name*."""

    name: str
    method: str
    path: str
    handler: Handler


class Refused(Exception):
    """The call is answered with a problem (RFC 7807)."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, **problem: JsonValue) -> None:
        text = _TEXTS.get(status, {"detail": HTTPStatus(status).phrase})
        self.response = JSONResponse(
            {**text, **problem, "status": status}, status, headers, media_type="application/problem+json"
        )


async def read(request: Request, kind: type[_M]) -> _M:
    """Parse the body of *request*, or refuse the call if it is not of that *kind*."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        lines = (f"- {'.'.join(map(str, mistake['loc'])) or 'body'}: {mistake['msg']}" for mistake in mistakes)
        raise Refused(422, title=INVALID, detail="\n".join(lines)) from error


def found(thing: _T | None) -> _T:
    """Return *thing*, or refuse the call if there is none."""
    if thing is None:
        raise Refused(404)
    return thing


def model_name(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def own_url(request: Request) -> str:
    """Return the URL under which the caller reached us: the one that certainly works for it."""
    return str(request.base_url).rstrip("/")


def paged(
    request: Request, items: Sequence[_T], describe: Callable[[_T], dict[str, JsonValue]], *, key: Callable[[_T], str]
) -> Response:
    """Return the page of *items* that *request* asks for, newest first; refuse the call if there is no such page."""
    asked = found(page(items, request.query_params.get("cursor"), key=key))
    path = f"{own_url(request)}{request.url.path}"
    previous, following = (cursor and f"{path}?cursor={cursor}" for cursor in (asked.previous, asked.next))
    return JSONResponse({"previous": previous, "next": following, "results": [describe(item) for item in asked.items]})
