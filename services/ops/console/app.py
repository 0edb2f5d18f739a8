"""
The console's application: its routes, behind a session and a strict policy for browsers. Edge.

Each screen is one line in `SCREENS`: a function that returns its routes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

import structlog
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ops.console.client import Refused, forbidden, our_problem
from services.ops.console.console import FORM, SESSION, SESSION_COOKIE, Console, Visit, as_problem, is_partial
from services.ops.console.forms import BadForm, Form, is_same_origin, read_form
from services.ops.console.pages import (
    audit,
    letters,
    now,
    queues,
    replays,
    search,
    sign_in,
    static,
    trainings,
    users,
    webhooks,
)
from services.ops.console.session import Session, from_cookie, is_csrf_token
from shared.contract.answers import Problem
from shared.contract.errors import TransientError
from shared.runtime.middleware import LimitBody
from shared.runtime.tokens import from_header

log = structlog.get_logger()

#: The screens, in the order of the navigation.
SCREENS: Final[tuple[Callable[[Console], list[Route]], ...]] = (
    now.routes,
    trainings.routes,
    users.routes,
    queues.routes,
    webhooks.routes,
    search.routes,
    letters.routes,
    replays.routes,
    audit.routes,
    sign_in.routes,
    static.routes,
)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer, with which browsers would send the origin of our own forms as "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: What needs no session. To sign in is protected against other sites by the origin alone.
_OPEN: Final = ("/sign-in", "/static/")
_READS: Final = ("GET", "HEAD")
_HTTP: Final = {
    404: ("not-found", "there is no page at this address"),
    405: ("method-not-allowed", "a form is not sent to this address"),
}


def create_console(console: Console) -> ASGIApp:
    """Return the application, to be mounted at ``/``."""

    async def failed(request: Request, error: Exception) -> Response:
        visit = Visit(console, request)
        match error:
            case Refused() | TransientError():
                return await visit.show_problem(as_problem(error))
            case HTTPException():
                return await visit.show_problem(_problem_of(error), error.headers)
        log.error("console.broken", path=visit.path, exc_info=error)
        return await visit.show_problem(our_problem(500, "internal", "an internal error; it is logged"))

    app = Starlette(
        routes=[route for screen in SCREENS for route in screen(console)],
        exception_handlers=dict.fromkeys((Refused, TransientError, HTTPException), failed),
    )
    app.router.redirect_slashes = False
    app.add_exception_handler(Exception, failed)
    # Around the application and not inside, so that its answers to errors are guarded too.
    return LimitBody(_Guard(app, console))


class _Guard:
    """Middleware: sets the headers of every response, and refuses requests without a session or CSRF token."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = await _refusal(Visit(self._console, Request(scope, receive)))
        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)


async def _refusal(visit: Visit) -> Response | None:
    """Return the response to a request that may not pass; put the session and the form into the others' scope."""
    request, session = visit.request, _session(visit)
    if session is not None:
        request.scope[SESSION] = session
    is_open = visit.path.startswith(_OPEN)
    if session is None and not is_open:
        return _to_sign_in(visit)
    if request.method in _READS:
        return None
    problem = await _mistake(request, None if is_open else session)
    return None if problem is None else await visit.show_problem(problem)


async def _mistake(request: Request, session: Session | None) -> Problem | None:
    """Return what is wrong with a posted form; with a *session* it must have the session's CSRF token."""
    if not is_same_origin(request.headers):
        return forbidden("the form was sent by another site")
    try:
        form = read_form(await request.body(), request.headers.get("content-type", ""))
    except BadForm as error:
        return our_problem(400, "bad-request", str(error))
    except HTTPException as error:
        return our_problem(413, "too-large", error.detail)
    except ClientDisconnect:
        return our_problem(400, "bad-request", "the form did not arrive")
    request.scope[FORM] = form
    return None if session is None else _refused(request, session, form)


def _session(visit: Visit) -> Session | None:
    access, request = visit.console.access, visit.request
    session = from_cookie(request.cookies.get(SESSION_COOKIE, ""), access.tokens, visit.now)
    if session is None or access.name_header is None or not visit.is_of_proxy:
        return session
    name = from_header(request.headers.get(access.name_header, ""))
    return session if name is None else replace(session, name=name)


def _refused(request: Request, session: Session, form: Form) -> Problem | None:
    """Return why the person of *session* may not send *form*, or None."""
    if not is_csrf_token(request.headers.get("x-csrf-token", form.get("csrf", "")), session):
        return forbidden("the form is of another session: go back, reload the page, try again")
    if not session.may_write and request.scope["path"] != "/sign-out":
        return forbidden("this token may look, but change nothing")
    return None


def _to_sign_in(visit: Visit) -> Response:
    request = visit.request
    if is_partial(request.headers):
        # The whole page is loaded again, and led to the sign-in.
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"HX-Refresh": "true"})
    query = request.scope["query_string"].decode("latin-1")
    here = visit.path + (f"?{query}" if query else "")
    if request.method in _READS and request.headers.get("sec-fetch-site") == "cross-site":
        # A link from elsewhere, such as a chat: browsers keep a strict cookie back. From our own page they send it.
        return HTMLResponse(_AGAIN)
    back = f"?{urlencode({'next': here})}" if request.method in _READS and here != "/" else ""
    return RedirectResponse(f"/sign-in{back}", status_code=HTTPStatus.SEE_OTHER)


_AGAIN: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0">'
    "<title>modelswap</title></head><body><p>One moment …</p></body></html>"
)


def _problem_of(error: HTTPException) -> Problem:
    kind, detail = _HTTP.get(error.status_code, ("http", error.detail))
    return our_problem(error.status_code, kind, detail)
