"""
Base of our HTTP APIs: validation, error responses, pages; authentication and body limit by `middleware`. Edge.

Every request needs a bearer token. Every failure is answered as a problem (RFC 9457), without internals.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response, Security, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp

from shared.contract.answers import Item, Mistake, Page
from shared.contract.checked import Checked
from shared.contract.errors import DependencyDown, ModelswapError, TransientError
from shared.contract.mistakes import Schemas, mistakes
from shared.runtime.description import PROBLEMS, describe, kind_of, without_tools
from shared.runtime.docs import HEADERS as PAGE_HEADERS
from shared.runtime.docs import page
from shared.runtime.health import Report, health_routes
from shared.runtime.middleware import CALLER, DOCS, OPENAPI, PRESENTED, LimitBody, RequireToken, path_below, traced
from shared.runtime.problems import problem
from shared.runtime.tokens import Caller, Token

log = structlog.get_logger()

Answer = Callable[[Request, Exception], Coroutine[None, None, Response]]

_INVALID: Final = "invalid"
_RETRY_AFTER_SECONDS: Final = 5
_CURSOR_BYTES: Final = 8
#: A number from 0 to 2**63 - 1 in that many bytes, as base 64; every text that matches is one.
_CURSOR: Final = "^[A-Za-f][A-Za-z0-9_-]{9}[AEIMQUYcgkosw048]$"

#: Not the phrases of `HTTPStatus`, which differ between versions of Python.
_HTTP_KINDS: Final = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


class Invalid(Exception):
    """Parts of the request are invalid; *kind* is another one if they are invalid only in the current state."""

    def __init__(self, *mistakes: Mistake, kind: str = _INVALID) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes
        self.kind = kind


def _asker(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


def _askers_token(request: Request) -> Token:
    token: Token = request.scope[PRESENTED]
    return token


async def _refuse_unknown_parameters(request: Request) -> None:
    """
    Refuse unknown and repeated query parameters.

    Raises:
        Invalid: if there are any. Ignoring a mistyped filter would return everything.

    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    fields = get_flat_params(request.scope["route"].dependant)
    # A parameter inside a model is not marked as a query parameter, so exclude the other kinds.
    known = {field.alias for field in fields if not isinstance(field.field_info, (params.Path, params.Header))}
    there_are = f"known are {', '.join(sorted(known))}" if known else "none is taken here"
    found = [
        Mistake(
            pointer=f"query.{name}",
            detail="must be given once" if name in known else f"unknown parameter; {there_are}",
        )
        for name, count in given.items()
        if count > 1 or name not in known
    ]
    if found:
        raise Invalid(*found)


def _cursor(text: str) -> str:
    if not re.fullmatch(_CURSOR, text):
        raise ValueError("must be the `next_cursor` of an earlier page")
    return text


Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[
    Annotated[str, Checked(_cursor, pattern=_CURSOR)] | None,
    Query(description="The `next_cursor` of an earlier page; without one, the first page is answered."),
]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
#: The caller that the request's token belongs to.
Asker = Annotated[Caller, Depends(_asker)]
#: The request's token.
AskersToken = Annotated[Token, Depends(_askers_token)]
#: Of every operation. HTTPBearer is for the document only; `RequireToken` checks the token before a body is read.
_DEPENDENCIES: Final = (Security(HTTPBearer(auto_error=False)), Depends(_refuse_unknown_parameters))


def _operation_id(route: APIRoute) -> str:
    return route.name


class Router(APIRouter):
    """The routes of a topic, for `Api.take`."""

    def __init__(self, *tags: str) -> None:
        super().__init__(tags=[*tags], dependencies=_DEPENDENCIES, generate_unique_id_function=_operation_id)


class Api(FastAPI):
    """One of our APIs: its description lists the problems of each operation, and has an HTML page."""

    def __init__(self, *, statuses: Mapping[type[ModelswapError], HTTPStatus], **options: Any) -> None:
        # FastAPI's own spans and logs would hold paths with user ids, and texts of errors.
        super().__init__(
            **options, telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
        )
        self._statuses = statuses
        self._whole: dict[str, Any] | None = None
        self.add_route(DOCS, self._show_page)

    def take(self, router: Router) -> None:
        """Serve the routes of *router*. `include_router` would build each of them once more, which takes most of it."""
        self.routes.extend(router.routes)

    def whole(self) -> dict[str, Any]:
        """Return the description, including internal operations."""
        if self._whole is None:
            self._whole = super().openapi()
            endpoints = {str(each.name): each.endpoint for each in iter_route_contexts(self.routes) if each.endpoint}
            describe(self._whole, endpoints, self._statuses)
        return self._whole

    def openapi(self) -> dict[str, Any]:
        """Return the public description."""
        return without_tools(self.whole())

    def methods_at(self, path: str) -> list[str]:
        """Return the methods that *path* supports."""
        here = (each for each in iter_route_contexts(self.routes) if each.path_regex.match(path))
        return sorted({method for each in here for method in each.methods or ()})

    async def _show_page(self, _: Request) -> Response:
        return HTMLResponse(page(self.openapi()), headers=PAGE_HEADERS)


def new_api(
    *,
    title: str,
    summary: str,
    description: str = "",
    tags: Mapping[str, str],
    tokens: Sequence[Token],
    statuses: Mapping[type[ModelswapError], HTTPStatus],
    readers_write: Collection[str] = (),
) -> Api:
    """
    Create an API without routes.

    *tags* describe the groups of operations. *readers_write* is as in `RequireToken`. *statuses* are the HTTP statuses
    of our errors; any other error is answered as an internal one.
    """
    answer = answering(statuses)
    api = Api(
        statuses=statuses,
        title=title,
        summary=summary,
        description=f"{description.strip()}\n\n{PROBLEMS}",
        version="1",
        openapi_tags=[{"name": name, "description": about} for name, about in tags.items()],
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        dependencies=_DEPENDENCIES,
        exception_handlers=dict.fromkeys(
            (RequestValidationError, Invalid, ModelswapError, HTTPException, Exception), answer
        ),
    )
    api.add_middleware(LimitBody)
    api.add_middleware(RequireToken, tokens=tokens, readers_write=readers_write)
    return api


def create_app(api: ASGIApp, report: Report, *, below: str = "/v1", console: ASGIApp | None = None) -> Starlette:
    """
    Create the application of *api* with health routes.

    *console* answers all other paths. Health and metrics are in no trace: they are asked for every few seconds, and by
    no one who follows a request.
    """
    others = [] if console is None else [Mount("/", app=traced(console))]
    app = Starlette(
        routes=[*health_routes(report), Mount(below, app=traced(api)), *others],
        exception_handlers={HTTPException: answering({})},
    )
    # A redirect would repeat the Host header, which the client controls.
    app.router.redirect_slashes = False
    return app


def to_cursor(number: int) -> str:
    """Encode the position where a page ended, for the request of the next page."""
    return base64.urlsafe_b64encode(number.to_bytes(_CURSOR_BYTES)).decode().rstrip("=")


def page_of(found: Sequence[Item], limit: int, position: Callable[[Item], int]) -> Page[Item]:
    """Return a page of the first *limit* items; *found* has one more if there is a next page."""
    items = found[:limit]
    return Page(items=items, next_cursor=to_cursor(position(items[-1])) if len(found) > limit else None)


def from_cursor(cursor: str | None, first: int) -> int:
    """Decode the position in a cursor of `to_cursor`; without one, return *first*."""
    return first if cursor is None else int.from_bytes(base64.urlsafe_b64decode(f"{cursor}="))


def answering(statuses: Mapping[type[ModelswapError], HTTPStatus]) -> Answer:
    """Return the exception handler that answers every error as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        match error:
            case RequestValidationError():
                return _invalid(mistakes(error.errors(), error.body, _taken(request)))
            case Invalid():
                return _invalid(error.mistakes, error.kind)
            case HTTPException():
                return _refused(request, error)
            case TransientError():
                return _unavailable(request, error)
            case ModelswapError() if type(error) in statuses:
                return problem(statuses[type(error)], kind_of(error.code), str(error))
        log.error("request.broken", path=request.url.path, exc_info=error)
        return problem(500, "internal", "an internal error; it is logged")

    return answer


def _invalid(errors: Sequence[Mistake], kind: str = _INVALID) -> Response:
    return problem(422, kind, "the request is invalid", errors=errors)


def _refused(request: Request, error: HTTPException) -> Response:
    status, headers, detail = error.status_code, error.headers, str(error.detail)
    if status == HTTPStatus.METHOD_NOT_ALLOWED and isinstance(request.app, Api):
        # Starlette names the methods of the first route at that path, not of all.
        allowed = ", ".join(request.app.methods_at(path_below(request.scope)))
        headers, detail = {"Allow": allowed}, f"this path supports only {allowed}"
    return problem(status, _HTTP_KINDS.get(status, "http"), detail, headers=headers)


def _taken(request: Request) -> Schemas:
    """Return the schemas of *request*'s operation."""
    document = request.app.whole()
    operation = document["paths"][request.scope["route"].path_format][request.method.lower()]
    return Schemas.of_operation(document, operation)


def _unavailable(request: Request, error: TransientError) -> Response:
    log.warning("request.unavailable", path=request.url.path, error=error.code, detail=str(error))
    told = error.retry_after_seconds if isinstance(error, DependencyDown) else None
    headers = {"Retry-After": str(math.ceil(told or _RETRY_AFTER_SECONDS))}
    return problem(503, "unavailable", f"not now ({error.code}): try again in a moment", headers=headers)
