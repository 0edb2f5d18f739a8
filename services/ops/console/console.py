"""What every screen of the console needs: who asks, the APIs, the templates. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeAlias

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.ops.console.attempts import Attempts
from services.ops.console.client import Apis, Clients, Refused, ServiceDown, our_problem
from services.ops.console.forms import Form
from services.ops.console.rendering import templates
from services.ops.console.session import Flash, Session, Tone, csrf_token, open_flash, seal_flash
from services.ops.console.views.problems import ProblemView, problem_view
from services.ops.letters.views import LetterCounts
from shared.contract.answers import Problem
from shared.runtime.clock import now
from shared.runtime.connections import Network, is_trusted
from shared.runtime.tokens import Token

SESSION_COOKIE: Final = "modelswap_session"
FLASH_COOKIE: Final = "modelswap_flash"
#: Names in the request's scope.
SESSION: Final = "modelswap.console.session"
FORM: Final = "modelswap.console.form"
#: How often the count in the navigation is read, for all people.
_COUNTED_EVERY: Final = timedelta(seconds=5)


class Section(NamedTuple):
    """One screen in the navigation; *key* is pressed after ``g``."""

    path: str
    title: str
    key: str


SECTIONS: Final = (
    Section("/", "Now", "n"),
    Section("/trainings", "Trainings", "t"),
    Section("/dead-letters", "Dead letters", "d"),
    Section("/replays", "Replays", "r"),
    Section("/queues", "Queues", "q"),
    Section("/audit", "Audit", "a"),
)


def section_of(path: str) -> str | None:
    """Return the path of the section that *path* belongs to; None if it belongs to none."""
    first = "/" + path.lstrip("/").partition("/")[0]
    if first == "/users":
        return "/trainings"
    return first if any(first == section.path for section in SECTIONS) else None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the console."""

    tokens: tuple[Token, ...]
    #: Networks of proxies, whose headers are believed.
    trusted: tuple[Network, ...]
    #: The header in which a trusted proxy names the person.
    name_header: str | None
    #: Uses a one-time code up; returns the token that it stands for, or None if it is not valid.
    redeem: Callable[[str], Awaitable[Token | None]]


class Done(NamedTuple):
    """What came of a form: the page that is shown next, and the sentence on it."""

    location: str
    text: str
    kind: Tone = "good"


class Console:
    """The console. Each screen's routes are given this."""

    def __init__(self, clients: Clients, access: Access, *, clock: Callable[[], datetime] = now) -> None:
        self.access = access
        self.attempts = Attempts()
        self.clock = clock
        self._clients = clients
        self._open_letters: tuple[datetime, int | None] | None = None

    # What a screen uses

    def session(self, request: Request) -> Session:
        """Return the session of the person who asks; every screen but the sign-in has one."""
        session: Session = request.scope[SESSION]
        return session

    def apis(self, request: Request) -> Apis:
        return self._clients.of(self.session(request))

    def form(self, request: Request) -> Form:
        """Return the fields of a posted form, whose CSRF token is checked already."""
        form: Form = request.scope[FORM]
        return form

    async def render(self, request: Request, template: str, *, status: int = 200, **view: Any) -> Response:
        """Return the page of *template* with what it needs in *view*; one that knows ``open_letters`` gives them."""
        session: Session | None = request.scope.get(SESSION)
        if "open_letters" not in view:
            view["open_letters"] = await self._count_open(request)
        page = (
            templates()
            .get_template(template)
            .render(
                session=session,
                csrf=None if session is None else csrf_token(session),
                flash=None if session is None else open_flash(request.cookies.get(FLASH_COOKIE, ""), session),
                sections=SECTIONS,
                section=section_of(path_of(request)),
                query=request.query_params.get("q", "") if path_of(request) == "/search" else "",
                now=self.clock(),
                **view,
            )
        )
        response = HTMLResponse(page, status_code=status)
        if FLASH_COOKIE in request.cookies and not is_partial(request.headers):
            response.delete_cookie(FLASH_COOKIE, path="/")
        return response

    async def show_problem(
        self, request: Request, problem: Problem, headers: Mapping[str, str] | None = None
    ) -> Response:
        view = problem_view(problem)
        response = await self.render(request, "problem.html", status=view.status, problem=view)
        response.headers.update(headers or {})
        return response

    # What the app uses

    def is_trusted(self, request: Request) -> bool:
        """Return whether the request comes from a trusted proxy."""
        return request.client is not None and is_trusted(request.client.host, self.access.trusted)

    def client_address(self, request: Request) -> str:
        """Return the client's address: of a trusted proxy's request, the last one that the proxy itself saw."""
        direct = request.client.host if request.client else ""
        if not self.is_trusted(request):
            return direct
        # Some proxies add a line of their own, below that of the client.
        passed = [each.strip() for each in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
        outside = [each for each in passed if each and not is_trusted(each, self.access.trusted)]
        return outside[-1] if outside else direct

    def set_cookie(self, request: Request, response: Response, name: str, value: str, *, seconds: int) -> None:
        """Set a cookie that no script reads, and that no other site's request carries."""
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path="/",
            secure=self._is_https(request),
            httponly=True,
            samesite="strict",
        )

    def _is_https(self, request: Request) -> bool:
        forwarded = request.headers.get("x-forwarded-proto") if self.is_trusted(request) else None
        return (forwarded or request.scope["scheme"]) == "https"

    # Below

    async def _count_open(self, request: Request) -> int | None:
        """Return the number of open dead letters; None if it is not known now."""
        if SESSION not in request.scope:
            return None
        if self._open_letters is None or self.clock() - self._open_letters[0] >= _COUNTED_EVERY:
            try:
                counts = await self.apis(request).ops.get(LetterCounts, "/dead-letter-counts")
                self._open_letters = (self.clock(), counts.open)
            except (Refused, ServiceDown):
                self._open_letters = (self.clock(), None)
        return self._open_letters[1]


#: Renders a page.
Show: TypeAlias = Callable[[Console, Request], Awaitable[Response]]
#: Does what a form asks for.
Work: TypeAlias = Callable[[Console, Request], Awaitable[Done]]
#: Renders the page of a form with the problem beside it.
Again: TypeAlias = Callable[[Console, Request, ProblemView], Awaitable[Response]]


def page_route(console: Console, path: str, show: Show, *, method: str = "GET") -> Route:
    return Route(path, partial(show, console), methods=[method])


def form_route(console: Console, path: str, work: Work, *, again: Again | None = None) -> Route:
    """
    Return the route of a form: its *work* is done, then the page follows where its outcome is seen.

    If an API refuses, *again* renders the form with the problem beside it (the response's status is the
    problem's); without it the problem has a page of its own.
    """
    return Route(path, partial(_write, console, work, again), methods=["POST"])


async def _write(console: Console, work: Work, again: Again | None, request: Request) -> Response:
    try:
        done = await work(console, request)
    except (Refused, ServiceDown) as error:
        if again is None:
            return await console.show_problem(request, as_problem(error))
        view = problem_view(as_problem(error))
        response = await again(console, request, view)
        response.status_code = view.status
        return response
    response = RedirectResponse(done.location, status_code=HTTPStatus.SEE_OTHER)
    session = console.session(request)
    flash = Flash(text=done.text, kind=done.kind)
    console.set_cookie(request, response, FLASH_COOKIE, seal_flash(flash, session), seconds=60)
    return response


def path_of(request: Request) -> str:
    """Return the path as the server routes it. `Request.url` is made of the Host header, which the client controls."""
    path: str = request.scope["path"]
    return path


def is_partial(headers: Headers) -> bool:
    """Return whether a script asks for a part of a page."""
    return "hx-request" in headers


def as_problem(error: Exception) -> Problem:
    """Return the problem that *error* is to a person."""
    if isinstance(error, Refused):
        return error.problem
    return our_problem(503, "unavailable", str(error))
