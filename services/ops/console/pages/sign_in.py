"""Sign in and out: a token, or the code of a one-time link, in exchange for a session. Edge."""

from __future__ import annotations

import math
import secrets
from http import HTTPStatus
from typing import Final

import structlog
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.ops.console.console import SESSION_COOKIE, Console, Visit, page_route
from services.ops.console.forms import local_path
from services.ops.console.session import LASTS, begin, find_token, to_cookie
from shared.contract.errors import ModelswapError

log = structlog.get_logger()

_USED: Final = "This link was used already, or is too old. Make another one, or sign in with a token."
#: A longer one is none of ours, and not shown again.
_LONGEST_CODE: Final = 200
_UNKNOWN: Final = "This token is not known here. Paste the whole token, without its scope and name."


def routes(console: Console) -> list[Route]:
    return [
        page_route(console, "/sign-in", _show_form),
        page_route(console, "/sign-in", _sign_in, method="POST"),
        page_route(console, "/sign-out", _sign_out, method="POST"),
    ]


async def _show_form(visit: Visit) -> Response:
    # A preview of a link opens it, too. So the code is used up by the button alone.
    code = visit.query.get("code", "")
    following = local_path(visit.query.get("next", "/"))
    return await _form(visit, following, code=code if len(code) <= _LONGEST_CODE else "")


async def _sign_in(visit: Visit) -> Response:
    form = visit.form
    following = local_path(form.get("next", "/"))
    address, now = visit.client_address, visit.now
    access, attempts = visit.console.access, visit.console.attempts
    if pause := attempts.wait(address, now):
        seconds = math.ceil(pause.total_seconds())
        mistake = f"Too many attempts: try again in {seconds} s."
        answer = await _form(visit, following, status=HTTPStatus.TOO_MANY_REQUESTS, mistake=mistake)
        answer.headers["Retry-After"] = str(seconds)
        return answer
    # Counted before it is known to have failed: many may be made at once.
    attempts.failed(address, now)
    code = form.text("code")
    try:
        token = await access.redeem(code) if code else find_token(form.text("token"), access.tokens)
    except ModelswapError:
        attempts.take_back(address)
        raise
    if token is None:
        log.info("console.sign_in_refused", address=address)
        mistake = _USED if code else _UNKNOWN
        return await _form(visit, following, status=HTTPStatus.UNAUTHORIZED, mistake=mistake)
    attempts.succeeded(address)
    session = begin(token, nonce=secrets.token_urlsafe(16), now=now)
    log.info("console.signed_in", name=session.name, role=session.role)
    response = RedirectResponse(following, status_code=HTTPStatus.SEE_OTHER)
    visit.set_cookie(response, SESSION_COOKIE, to_cookie(session), seconds=int(LASTS.total_seconds()))
    return response


async def _sign_out(_: Visit) -> Response:
    response = RedirectResponse("/sign-in", status_code=HTTPStatus.SEE_OTHER)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


async def _form(visit: Visit, following: str, *, status: int = 200, mistake: str = "", code: str = "") -> Response:
    return await visit.render("sign_in.html", status=status, following=following, mistake=mistake, code=code)
