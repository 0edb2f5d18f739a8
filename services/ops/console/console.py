"""What every screen of the console needs: who asks, the APIs, the templates. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
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
        self.clients = clients
        self.access = access
        self.attempts = Attempts()
        self.clock = clock
        self._open_letters: tuple[datetime, int | None] | None = None

    async def count_open(self, apis: Apis) -> int | None:
        """Return the number of open dead letters; None if it is not known now."""
        if self._open_letters is None or self.clock() - self._open_letters[0] >= _COUNTED_EVERY:
            try:
                counts = await apis.ops.get(LetterCounts, "/dead-letter-counts")
                self._open_letters = (self.clock(), counts.open)
            except (Refused, ServiceDown):
                self._open_letters = (self.clock(), None)
        return self._open_letters[1]


class Visit:
    """A request, and what a screen needs to answer it."""

    def __init__(self, console: Console, request: Request) -> None:
        self.console = console
        self.request = request
        self.params = request.path_params
        self.query = request.query_params
        #: As the server routes it. `Request.url` is made of the Host header, which the client controls.
        self.path: str = request.scope["path"]
        self.now = console.clock()

    @property
    def session(self) -> Session:
        """The session of the person who asks; every screen but the sign-in has one."""
        session: Session = self.request.scope[SESSION]
        return session

    @cached_property
    def apis(self) -> Apis:
        return self.console.clients.of(self.session)

    @property
    def form(self) -> Form:
        """The fields of a posted form, whose CSRF token is checked already."""
        form: Form = self.request.scope[FORM]
        return form

    @property
    def cursor(self) -> str | None:
        """Which page of a list is asked for; None: the first."""
        return self.query.get("cursor")

    async def render(self, template: str, *, status: int = 200, **view: Any) -> Response:
        """Return the page of *template* with what it needs in *view*; one that knows ``open_letters`` gives them."""
        session: Session | None = self.request.scope.get(SESSION)
        cookies = self.request.cookies
        if "open_letters" not in view:
            view["open_letters"] = None if session is None else await self.console.count_open(self.apis)
        page = (
            templates()
            .get_template(template)
            .render(
                session=session,
                csrf=None if session is None else csrf_token(session),
                flash=None if session is None else open_flash(cookies.get(FLASH_COOKIE, ""), session),
                sections=SECTIONS,
                section=section_of(self.path),
                query=self.query.get("q", "") if self.path == "/search" else "",
                now=self.now,
                **view,
            )
        )
        response = HTMLResponse(page, status_code=status)
        if FLASH_COOKIE in cookies and not is_partial(self.request.headers):
            response.delete_cookie(FLASH_COOKIE, path="/")
        return response

    async def show_problem(self, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
        view = problem_view(problem)
        response = await self.render("problem.html", status=view.status, problem=view)
        response.headers.update(headers or {})
        return response

    @property
    def is_of_proxy(self) -> bool:
        """Whether the request comes from a trusted proxy."""
        client = self.request.client
        return client is not None and is_trusted(client.host, self.console.access.trusted)

    @property
    def client_address(self) -> str:
        """The client's address: of a trusted proxy's request, the last one that the proxy itself saw."""
        direct = self.request.client.host if self.request.client else ""
        if not self.is_of_proxy:
            return direct
        # Some proxies add a line of their own, below that of the client.
        passed = [each.strip() for each in ",".join(self.request.headers.getlist("x-forwarded-for")).split(",")]
        outside = [each for each in passed if each and not is_trusted(each, self.console.access.trusted)]
        return outside[-1] if outside else direct

    def set_cookie(self, response: Response, name: str, value: str, *, seconds: int) -> None:
        """Set a cookie that no script reads, and that no other site's request carries."""
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path="/",
            secure=self._is_https,
            httponly=True,
            samesite="strict",
        )

    @property
    def _is_https(self) -> bool:
        forwarded = self.request.headers.get("x-forwarded-proto") if self.is_of_proxy else None
        return (forwarded or self.request.scope["scheme"]) == "https"


#: Renders a page.
Show: TypeAlias = Callable[[Visit], Awaitable[Response]]
#: Does what a form asks for.
Work: TypeAlias = Callable[[Visit], Awaitable[Done]]
#: Renders the page of a form with the problem beside it.
Again: TypeAlias = Callable[[Visit, ProblemView], Awaitable[Response]]


def page_route(console: Console, path: str, show: Show, *, method: str = "GET") -> Route:
    async def answer(request: Request) -> Response:
        return await show(Visit(console, request))

    return Route(path, answer, methods=[method])


def form_route(console: Console, path: str, work: Work, *, again: Again | None = None) -> Route:
    """
    Return the route of a form: its *work* is done, then the page follows where its outcome is seen.

    If an API refuses, *again* renders the form with the problem beside it (the response's status is the
    problem's); without it the problem has a page of its own.
    """

    async def write(visit: Visit) -> Response:
        try:
            done = await work(visit)
        except (Refused, ServiceDown) as error:
            if again is None:
                return await visit.show_problem(as_problem(error))
            view = problem_view(as_problem(error))
            response = await again(visit, view)
            response.status_code = view.status
            return response
        response = RedirectResponse(done.location, status_code=HTTPStatus.SEE_OTHER)
        flash = Flash(text=done.text, kind=done.kind)
        visit.set_cookie(response, FLASH_COOKIE, seal_flash(flash, visit.session), seconds=60)
        return response

    return page_route(console, path, write, method="POST")


def is_partial(headers: Headers) -> bool:
    """Return whether a script asks for a part of a page."""
    return "hx-request" in headers


def as_problem(error: Exception) -> Problem:
    """Return the problem that *error* is to a person."""
    if isinstance(error, Refused):
        return error.problem
    return our_problem(503, "unavailable", str(error))
