"""
What the console asks: ops' own API within the process, the APIs of state and the notifier over HTTP. Edge.

Ops' API is asked with the token that signed in. So what a person may do, what is valid, and who the audit names is
decided there, and the console shows nothing that the API does not give.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from services.ops.audit.views import Audit
from services.ops.console.session import Session
from shared.contract.answers import KIND_PREFIX, Problem
from shared.runtime.client import HttpClient, ServiceDown, quoted, read, token_refused, unexpected
from shared.runtime.middleware import PERSON
from shared.runtime.tokens import ON_BEHALF_OF, from_header, to_header

__all__ = ["BY_BUTTON", "Api", "Apis", "Clients", "Parts", "Refused", "ServiceDown", "in_process", "quoted"]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Body = Mapping[str, JsonValue]
Query = Mapping[str, str | None]
#: The reason of what is done by a button that asks for none.
BY_BUTTON: Final = "by a button of the console"

#: A part that hangs must not hold up its page.
_PATIENCE_SECONDS: Final = 4.0
#: How long a page waits for an answer.
_READ_SECONDS: Final = 8.0
#: State may ask Replicate, and a rollback waits for its user's lock.
_WRITE_SECONDS: Final = 30.0
#: To drop 100,000 dead letters takes half a minute on a busy machine (2026-11).
_OWN_WRITE_SECONDS: Final = 120.0
_LIMIT_BYTES: Final = 64 * 1024 * 1024
_PERSON: Final = b"modelswap-console-person"
_HEADER: Final = re.compile(r"[\x20-\x7e]*")
#: Problems of a request to a path, or with a method, that an API does not have.
_UNKNOWN_PATH: Final = ("not-found", "method-not-allowed")


class Refused(Exception):
    """An API refused a request, for the reason in *problem*."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def kind(self) -> str:
        return self.problem.type.removeprefix(KIND_PREFIX)


class Api:
    """One API, asked for one person."""

    def __init__(self, client: HttpClient, headers: Mapping[str, str], *, may_write: bool, ours: bool = False) -> None:
        """*ours*: the API knows the person's own token; others know a token of ops."""
        self._client = client
        self._headers = headers
        self._may_write = may_write
        self._ours = ours

    async def get(self, kind: type[M], path: str, query: Query | None = None) -> M:
        """Return the answer of ``GET /v1`` *path*; *query* leaves out what is None. Raises as `ask` does."""
        return read(kind, await self.ask("GET", path, query=query))

    async def post(
        self,
        kind: type[M],
        path: str,
        body: Body | None = None,
        *,
        key: str | None = None,
        generation: str | None = None,
    ) -> M:
        """
        Return the answer of ``POST /v1`` *path*. Raises as `ask` does.

        *key* is the form's idempotency key. With a *generation*, it counts only while the user's model has it.
        """
        headers = {"Idempotency-Key": key, "If-Match": f'"{generation}"' if generation else None}
        return read(kind, await self.ask("POST", path, body=body, headers=headers))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body | None = None,
        headers: Mapping[str, str | None] | None = None,
        limit_bytes: int | None = _LIMIT_BYTES,
    ) -> httpx.Response:
        """
        Return the successful response to a request, with at most *limit_bytes*; None: all of it, and its headers.

        Raises:
            Refused: if the API refuses the request.
            ServiceDown: if it does not answer, or fails.

        """
        reads = method == "GET"
        if not reads and not self._may_write:
            raise Refused(forbidden("this token may look, but change nothing"))
        if any(value is not None and not _HEADER.fullmatch(value) for value in (headers or {}).values()):
            raise Refused(our_problem(400, "bad-request", "a hidden field of the form was changed"))
        seconds = _READ_SECONDS if reads else _OWN_WRITE_SECONDS if self._ours else _WRITE_SECONDS
        response = await self._client.request(
            method,
            path,
            query=query,
            body=body,
            headers={**self._headers, **(headers or {})},
            seconds=seconds,
            deadline_seconds=seconds,
            limit_bytes=limit_bytes,
        )
        if response.is_success:
            return response
        raise self._why_not(response)

    def _why_not(self, response: httpx.Response) -> Refused | ServiceDown:
        if response.is_server_error:
            return unexpected(response)
        if not self._ours and (refused := token_refused(response)):
            return refused
        try:
            return Refused(Problem.model_validate_json(response.content))
        except ValidationError:
            return unexpected(response)


@dataclass(frozen=True, slots=True)
class Apis:
    """The APIs, asked for one person. Paths are those below ``/v1``."""

    ops: Api
    state: Api
    notifier: Api
    #: For what the person asks state for, which reports no event of it.
    audit: Audit
    #: The end of a reason that state keeps: the person's name, where our token may not say for whom it asks.
    by: str


@dataclass(frozen=True, slots=True)
class Clients:
    """The console's clients, each of an API at ``/v1``."""

    #: See `in_process`.
    ops: HttpClient
    state: HttpClient
    notifier: HttpClient
    audit: Audit
    _: KW_ONLY
    #: Whether the token of state and the notifier may name the person for whom it asks.
    may_speak_for_others: bool

    def of(self, session: Session) -> Apis:
        """Return the APIs as the person of *session* may use them."""
        name = to_header(session.name)
        own = {"Authorization": f"Bearer {session.token.secret}", _PERSON.decode(): name}
        others = {ON_BEHALF_OF: name} if self.may_speak_for_others else {}
        may_write = session.may_write
        return Apis(
            ops=Api(self.ops, own, may_write=may_write, ours=True),
            state=Api(self.state, others, may_write=may_write),
            notifier=Api(self.notifier, others, may_write=may_write),
            audit=self.audit,
            by="" if self.may_speak_for_others else f" (by {session.name})",
        )


def in_process(api: ASGIApp) -> HttpClient:
    """Return a client of ops' API within this process."""
    return HttpClient("http://ops", transport=httpx.ASGITransport(_InPerson(api), raise_app_exceptions=False))


class _InPerson:
    """Hands the person's name to the API of this process, which takes it from nowhere else."""

    def __init__(self, api: ASGIApp) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope["headers"]).get(_PERSON, b"").decode("latin-1")
        await self._api({**scope, PERSON: from_header(name)}, receive, send)


class Parts:
    """The parts of a page, which is shown without those that are away; *away* says why they are, by their names."""

    def __init__(self) -> None:
        self.away: dict[str, str] = {}

    async def of(self, name: str, asked: Awaitable[T]) -> T | None:
        """
        Return the result of *asked*; None if its API is away.

        During an upgrade, an API of the release before does not know every path.
        """
        try:
            return await asked
        except ServiceDown as error:
            why = str(error)
        except Refused as error:
            if error.kind not in _UNKNOWN_PATH:
                raise
            why = "it does not know what this page asks for: it is of an older version than ops"
        self.away.setdefault(name, why)
        return None

    async def soon(self, name: str, asked: Awaitable[T], *, seconds: float = _PATIENCE_SECONDS) -> T | None:
        """Do as `of` within *seconds*; a refusal, such as for a missing setting, hides this part only."""
        try:
            async with asyncio.timeout(seconds):
                return await self.of(name, asked)
        except TimeoutError:
            self.away[name] = f"There is no answer within {seconds:g} seconds."
        except Refused as refused:
            self.away[name] = refused.problem.detail
        return None


def forbidden(detail: str) -> Problem:
    return our_problem(403, "forbidden", detail)


def our_problem(status: int, kind: str, detail: str) -> Problem:
    return Problem(type=KIND_PREFIX + kind, title=kind, status=status, detail=detail)
