"""
What do our HTTP APIs have in common? Edge: who may ask, how much is read, and how a request is answered that fails.

Every request needs a bearer token. Whatever goes wrong is answered as a problem (RFC 9457), never with internals.
"""

from __future__ import annotations

import base64
import hmac
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, FastAPI, Header, Query, Request, Response, Security, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contract.answers import KIND_PREFIX, Mistake, Problem
from shared.contract.errors import DependencyDown, ModelswapError, TransientError
from shared.runtime.aside import SetAside
from shared.runtime.health import Check, health_routes
from shared.runtime.tokens import ON_BEHALF_OF, Caller, Token, from_header

log = structlog.get_logger()

Answer = Callable[[Request, Exception], Coroutine[Any, Any, Response]]

#: Training input may hold archives as data URIs.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_OPENAPI: Final = "/openapi.json"
_PROBLEM_JSON: Final = "application/problem+json"
_SCHEMAS: Final = "#/components/schemas/"
_PROBLEM_REF: Final = {"$ref": _SCHEMAS + Problem.__name__}
_RETRY_AFTER_SECONDS: Final = 5
_NUMBERS_END: Final = 2**63
_READS: Final = ("GET", "HEAD", "OPTIONS")
_CALLER: Final = "modelswap.caller"
_ON_BEHALF_OF: Final = ON_BEHALF_OF.lower().encode()
#: What pydantic calls a body that is no object.
_NO_OBJECT: Final = "model_attributes_type"

#: Not the phrases of `HTTPStatus`, which are others in a newer Python.
_HTTP_KINDS: Final = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}

_DOCUMENTED: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class NotFound(Exception):  # noqa: N818 (it is an answer)
    """There is nothing to show; *kind* says of what."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Invalid(Exception):  # noqa: N818 (it is an answer)
    """Parts of the request make no sense."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes


def _asker(request: Request) -> Caller:
    caller: Caller = request.scope[_CALLER]
    return caller


async def _refuse_unknown_parameters(request: Request) -> None:
    """
    Let a request pass if the query consists of parameters that the operation has, each of them once.

    Raises:
        Invalid: if not. A filter that was mistyped and ignored would be answered with everything.

    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    fields = get_flat_params(request.scope["route"].dependant)
    # A parameter that is part of a model does not say that it is one of the query.
    known = {field.alias for field in fields if not isinstance(field.field_info, (params.Path, params.Header))}
    there_are = f"known are {', '.join(sorted(known))}" if known else "none is taken here"
    mistakes = [
        Mistake(
            pointer=f"query.{name}",
            detail="must be given once" if name in known else f"unknown parameter; {there_are}",
        )
        for name, count in given.items()
        if count > 1 or name not in known
    ]
    if mistakes:
        raise Invalid(*mistakes)


Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=100)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
#: Whose token came with the request.
Asker = Annotated[Caller, Depends(_asker)]


def new_api(
    *, title: str, summary: str, tokens: Sequence[Token], statuses: Mapping[type[ModelswapError], HTTPStatus]
) -> FastAPI:
    """An API without routes. *statuses*: what an error of ours is answered with; any that is not there is a bug."""
    answer = answering(statuses)
    documented: dict[int | str, dict[str, Any]] = {
        int(status): {"description": status.phrase, "content": {_PROBLEM_JSON: {"schema": _PROBLEM_REF}}}
        for status in _DOCUMENTED
    }
    api = _Described(
        title=title,
        summary=summary,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=_OPENAPI,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses=documented,
        # For the document; `RequireToken` checks it, before a body is read.
        dependencies=[Security(HTTPBearer(auto_error=False)), Depends(_refuse_unknown_parameters)],
        exception_handlers=dict.fromkeys(
            (RequestValidationError, Invalid, NotFound, ModelswapError, HTTPException, Exception), answer
        ),
    )
    api.add_middleware(LimitBody)
    api.add_middleware(RequireToken, tokens=tokens)
    return api


class _Described(FastAPI):
    """Its description holds the schema of a problem once, which FastAPI knows nothing of."""

    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        schema = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
        inner = schema.pop("$defs")
        description["components"]["schemas"] |= {**inner, Problem.__name__: schema}
        return description


def create_app(
    api: ASGIApp,
    checks: Mapping[str, Check],
    *,
    told: Mapping[str, Check] | None = None,
    aside: Sequence[SetAside[Any]] = (),
    below: str = "/v1",
) -> Starlette:
    """Serve *api*, and say beside it whether this process is well, by *checks*; *told* and *aside*: `health_routes`."""
    app = Starlette(
        routes=[*health_routes(checks, aside, told=told), Mount(below, app=api)],
        exception_handlers={HTTPException: answering({})},
    )
    # A redirect would name the host that the client says it asked.
    app.router.redirect_slashes = False
    return app


class RequireToken:
    """
    Lets nothing pass without a bearer token that we know, except to the API's own description.

    Nothing that changes anything passes with a token that may only look, and no request in another's name with a token
    that may not speak for others.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[Token]) -> None:
        self._app = app
        self._tokens = [(token.secret.encode(), token.caller) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._choose(scope)(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) == _OPENAPI:
            return self._app
        if not self._tokens:
            return _CLOSED
        caller = self._identify(dict(scope["headers"]))
        if isinstance(caller, Response):
            return caller
        if not caller.may_write and scope["method"] not in _READS:
            return _FORBIDDEN
        scope[_CALLER] = caller
        return self._app

    def _identify(self, headers: Mapping[bytes, bytes]) -> Caller | Response:
        """Who asks, or the answer to a request that may not be made."""
        caller = self._find(headers)
        if caller is None:
            return _UNAUTHORIZED
        said = headers.get(_ON_BEHALF_OF)
        if said is None:
            return caller
        if not caller.may_speak_for_others:
            return _NOT_FOR_OTHERS
        name = from_header(said.decode("latin-1"))
        return _NO_NAME if name is None else replace(caller, name=name)

    def _find(self, headers: Mapping[bytes, bytes]) -> Caller | None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, so that the time says nothing of which.
        found = [caller for known, caller in self._tokens if hmac.compare_digest(token, known)]
        return found[0] if found and scheme.lower() == b"bearer" else None


class LimitBody:
    """Reads no more than `MAX_BODY_BYTES`. (FastAPI's own limit answers in plain text.)"""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size_bytes = 0

        async def receive_some() -> Message:
            nonlocal size_bytes
            message = await receive()
            size_bytes += len(message.get("body", b""))
            if size_bytes > MAX_BODY_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, receive_some, send)


def to_cursor(number: int) -> str:
    """Where a page ended, for whoever asks for the next one."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def from_cursor(cursor: str | None) -> int | None:
    """
    Read what `to_cursor` wrote.

    Raises:
        Invalid: if somebody else did.

    """
    if cursor is None:
        return None
    try:
        number = int(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except ValueError:
        number = 0
    if not 0 < number < _NUMBERS_END:
        raise Invalid(Mistake(pointer="query.cursor", detail="is none of ours"))
    return number


def _problem(
    status: int, kind: str, detail: str, *, errors: Sequence[Mistake] = (), headers: Mapping[str, str] | None = None
) -> Response:
    problem = Problem(type=KIND_PREFIX + kind, title=kind, status=status, detail=detail, errors=errors)
    return JSONResponse(
        problem.model_dump(exclude_defaults=True), status_code=status, media_type=_PROBLEM_JSON, headers=headers
    )


_UNAUTHORIZED: Final = _problem(
    401, "unauthorized", "a bearer token is needed that this API knows", headers={"WWW-Authenticate": "Bearer"}
)
_CLOSED: Final = _problem(403, "forbidden", "nobody may ask this process anything: it is given no MODELSWAP_API_TOKENS")
_FORBIDDEN: Final = _problem(403, "forbidden", "this token may look, but change nothing")
_NOT_FOR_OTHERS: Final = _problem(
    403, "forbidden", f"this token may not speak for others: leave {ON_BEHALF_OF} out, or use one of scope service"
)
_NO_NAME: Final = _problem(
    400, "bad-request", f"{ON_BEHALF_OF} is no name: letters, digits and _.@+- only, at most 100 of them"
)


def answering(statuses: Mapping[type[ModelswapError], HTTPStatus]) -> Answer:
    """What a request is answered with that could not be done."""

    async def answer(request: Request, error: Exception) -> Response:
        match error:
            case RequestValidationError() | Invalid():
                return _problem(422, "invalid", "the request makes no sense", errors=_mistakes(error))
            case NotFound(kind=kind):
                return _problem(404, kind, str(error))
            case HTTPException(status_code=status, headers=headers):
                return _problem(status, _HTTP_KINDS.get(status, "http"), str(error.detail), headers=headers)
            case TransientError():
                return _unavailable(request, error)
            case ModelswapError() if type(error) in statuses:
                return _problem(statuses[type(error)], _kind(error.code), str(error))
        log.error("request.broken", path=request.url.path, exc_info=error)
        return _problem(500, "internal", "an internal error; it is logged")

    return answer


def _mistakes(error: RequestValidationError | Invalid) -> Sequence[Mistake]:
    return error.mistakes if isinstance(error, Invalid) else [_mistake(each) for each in error.errors()]


def _mistake(error: Mapping[str, Any]) -> Mistake:
    where, *path = error["loc"]
    if where != "body":
        pointer = ".".join(map(str, error["loc"]))
    elif error["type"] == "json_invalid":
        pointer = "#"
    else:
        pointer = "/".join(["#", *(str(part).replace("~", "~0").replace("/", "~1") for part in path)])
    if error["type"] == _NO_OBJECT and pointer == "#":
        # Who forgets the header is told by the library of dictionaries to extract fields from.
        return Mistake(pointer=pointer, detail="must be a JSON object, sent with Content-Type: application/json")
    return Mistake(pointer=pointer, detail=str(error["msg"]).removeprefix("Value error, "))


def _unavailable(request: Request, error: TransientError) -> Response:
    log.warning("request.unavailable", path=request.url.path, error=error.code, detail=str(error))
    told = error.retry_after_seconds if isinstance(error, DependencyDown) else None
    headers = {"Retry-After": str(math.ceil(told or _RETRY_AFTER_SECONDS))}
    return _problem(503, "unavailable", f"not now ({error.code}): try again in a moment", headers=headers)


def _kind(code: str) -> str:
    return code.replace("_", "-")
