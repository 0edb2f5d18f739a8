"""Middleware of our HTTP APIs: bearer tokens, the limit of a body, and the span of each request. Edge."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contract.headers import TRACE_HEADERS, trace_context
from shared.runtime import tracing
from shared.runtime.problems import problem
from shared.runtime.span import Kind, Span
from shared.runtime.tokens import ON_BEHALF_OF, Caller, Token, from_header

#: Training input may hold archives as data URIs.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
#: Paths of the API's own description, which need no token.
OPENAPI: Final = "/openapi.json"
DOCS: Final = "/docs"
#: Name of the caller in the scope.
CALLER: Final = "modelswap.caller"
#: Name of the request's token in the scope.
PRESENTED: Final = "modelswap.token"
#: Name in the scope of the person for whom this process itself makes the request. No request from outside can set it.
PERSON: Final = "modelswap.person"
_READS: Final = ("GET", "HEAD", "OPTIONS")
_ON_BEHALF_OF: Final = ON_BEHALF_OF.lower().encode()
#: Names of methods in spans. A client may make up others, without end.
_METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
_EVENT_STREAM: Final = "text/event-stream"


class RequireToken:
    """
    Middleware: refuses requests without a known bearer token, except for the API's own description.

    It also refuses writes with a read-only token, and requests on behalf of others without a service token.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[Token], readers_write: Collection[str] = ()) -> None:
        """*readers_write* are the paths that a read-only token may post to."""
        self._app = app
        self._tokens = [(token.secret.encode(), token) for token in tokens]
        self._readers_write = readers_write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._choose(scope)(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http" or path_below(scope) in (OPENAPI, DOCS):
            return self._app
        if not self._tokens:
            return _CLOSED
        headers = dict(scope["headers"])
        token = self._find(headers)
        if token is None:
            return _UNAUTHORIZED
        caller = _caller(token.caller, headers, scope.get(PERSON))
        if isinstance(caller, Response):
            return caller
        may_write = caller.may_write or path_below(scope) in self._readers_write
        if not may_write and scope["method"] not in _READS:
            return _FORBIDDEN
        scope[CALLER], scope[PRESENTED] = caller, token
        return self._app

    def _find(self, headers: Mapping[bytes, bytes]) -> Token | None:
        scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, so that the timing does not reveal which one matches.
        found = [token for known, token in self._tokens if hmac.compare_digest(secret, known)]
        return found[0] if found and scheme.lower() == b"bearer" else None


def _caller(caller: Caller, headers: Mapping[bytes, bytes], person: str | None) -> Caller | Response:
    """Return whom the token's *caller* acts for, or the response that refuses the request."""
    if person is not None:
        return replace(caller, name=person)
    said = headers.get(_ON_BEHALF_OF)
    if said is None:
        return caller
    if not caller.may_speak_for_others:
        return _NOT_FOR_OTHERS
    name = from_header(said.decode("latin-1"))
    return _NO_NAME if name is None else replace(caller, name=name)


class LimitBody:
    """Middleware: refuses bodies over `MAX_BODY_BYTES`. (FastAPI's own limit answers in plain text.)"""

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


class TraceRequests:
    """
    Middleware: makes each request a span, by OpenTelemetry's conventions for HTTP but without the path.

    The path names users; the route, which is in the name of the span, does not. The span is a part of the trace in the
    request's header: unlike the receiver, these servers are not for the public. The span of an event stream ends when
    the stream begins: it lasts as long as its client stays, and all that the request asked for has happened by then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_known = scope["method"] in _METHODS
        name = scope["method"] if is_known else "HTTP"
        about = {"http.request.method": scope["method"] if is_known else "_OTHER"}
        parent = trace_context(*map(Headers(scope=scope).getlist, TRACE_HEADERS))
        with tracing.span(name, Kind.SERVER, about, parent=parent, is_root=True) as span:

            async def send_traced(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _answered(span, name, scope, message)
                await send(message)

            await self._app(scope, receive, send_traced)


def traced(app: ASGIApp) -> ASGIApp:
    """Return *app* with a span for each request, if tracing is on."""
    return TraceRequests(app) if tracing.is_on() else app


def _answered(span: Span, name: str, scope: Scope, start: Message) -> None:
    # Routing has put the route into the scope; after a 404 that is only the part of the application.
    route = scope.get("route")
    if route is not None and not isinstance(route, Mount):
        template = scope.get("root_path", "") + route.path_format
        span.set("http.route", template)
        span.rename(f"{name} {template}")
    span.answered(start["status"])
    if Headers(raw=start["headers"]).get("content-type", "").startswith(_EVENT_STREAM):
        span.end()


_UNAUTHORIZED: Final = problem(
    401, "unauthorized", "a valid bearer token is required", headers={"WWW-Authenticate": "Bearer"}
)
_CLOSED: Final = problem(403, "forbidden", "this process accepts no requests: MODELSWAP_API_TOKENS is not set")
_FORBIDDEN: Final = problem(403, "forbidden", "this token may look, but change nothing")
_NOT_FOR_OTHERS: Final = problem(
    403, "forbidden", f"this token may not speak for others: leave {ON_BEHALF_OF} out, or use one of scope service"
)
_NO_NAME: Final = problem(
    400, "bad-request", f"{ON_BEHALF_OF} is no name: letters, digits and _.@+- only, at most 100 of them"
)


def path_below(scope: Scope) -> str:
    """Return the path below the API's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
