"""What the clients of our APIs share: requests, answers, and what to do where there is none. Edge."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from shlex import quote as shell_quote
from typing import ClassVar, Final, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, SecretStr

from services.cli.output import tell
from services.cli.problem import NoAnswer, NotNow, Problem
from shared.contract.answers import Page, said_in
from shared.contract.headers import TRACE_HEADERS, trace_in
from shared.runtime.client import SECONDS, HttpClient, Hung, ServiceFailed, Unanswered, items, quoted, read
from shared.runtime.tokens import read_token

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V")
#: A JSON object to send, and the parameters of a request; those that are None are left out.
Body = Mapping[str, JsonValue]
Query = Mapping[str, str | None]

#: How long a command that watches waits for a process that is restarted, and how often it asks.
_PATIENCE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.5
_PAGE: Final = 100
CONFIG: Final = "modelswap config show"
_HELP: Final = "the same command with --help"
#: How an API names the wrong part of a request; people typed its name alone.
_POINTER: Final = re.compile(r"^(?:query\.|path\.|#/)(\w+)(?:/\w+)*: ")
#: The request makes no sense, or not as things are.
_REFUSED: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


class NotThere(Problem):
    """The API does not know the thing that was asked for."""

    code = "not_there"


class Api(HttpClient):
    """One of our APIs, as an async context manager."""

    #: What messages call it, and the settings that hold its address and its token.
    _name: ClassVar[str]
    _url_setting: ClassVar[str]
    _auth_setting: ClassVar[str]
    #: What to try after a 404, by the beginning of the path.
    _lists: ClassVar[Mapping[str, str]]
    #: Deadline of a request.
    _read_seconds: ClassVar[float] = SECONDS
    _write_seconds: ClassVar[float] = SECONDS

    def __init__(self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(url, token=token, transport=transport, trace=_outer_trace(os.environ))

    async def get(self, kind: type[M], path: str, query: Query | None = None, *, absent: str = "") -> M:
        return await self.ask(kind, "GET", path, query=query, absent=absent)

    async def post(
        self,
        kind: type[M],
        path: str,
        body: Body | None = None,
        *,
        then: str = _HELP,
        absent: str = "",
        key: str | None = None,
        generation: int | None = None,
    ) -> M:
        """*key*: the Idempotency-Key. With a *generation*, the request counts only while the user's model has it."""
        headers = {"Idempotency-Key": key, "If-Match": None if generation is None else f'"{generation}"'}
        return await self.ask(kind, "POST", path, body=body, headers=headers, then=then, absent=absent)

    async def list(
        self,
        page: type[Page[V]],
        path: str,
        query: Query | None = None,
        *,
        limit: int,
        page_size: int = _PAGE,
    ) -> list[V]:
        """Return at most *limit* items, the newest first."""
        return [each async for each in self.items(page, path, query, limit=limit, page_size=page_size)]

    def items(
        self,
        page: type[Page[V]],
        path: str,
        query: Query | None = None,
        *,
        limit: int | None,
        page_size: int = _PAGE,
    ) -> AsyncIterator[V]:
        """Yield at most *limit* items (None: all), the newest first, with one page in memory."""
        return items(lambda at: self.get(page, path, {**(query or {}), **at}), limit=limit, page_size=page_size)

    async def ask(
        self,
        kind: type[M],
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body | None = None,
        headers: Mapping[str, str | None] | None = None,
        then: str = _HELP,
        absent: str = "",
    ) -> M:
        """
        Send a request and return the answer as *kind*.

        *then* is what to try where the request is refused, *absent* where there is no such thing (default: the list).
        """
        seconds = self._read_seconds if method == "GET" else self._write_seconds
        try:
            response = await self.request(method, path, query=query, body=body, headers=headers, seconds=seconds)
            if not response.is_success:
                raise self._refusal(response, path, then, absent)
            return read(kind, response)
        except Hung as error:
            said = f"{self._name} at {self.url} took the request, and did not answer in time: it hangs"
            raise NotNow(said, then="modelswap doctor") from error
        except Unanswered as error:
            then = f"modelswap doctor, or correct {self._url_setting}"
            raise NoAnswer(f"{self._name} at {self.url} does not answer ({error.why})", then=then) from error
        except ServiceFailed as error:
            raise Problem(f"{self.url} is not {self._name}, or of another version", then=CONFIG) from error

    def _refusal(self, response: httpx.Response, path: str, then: str, absent: str) -> Problem:
        detail = _POINTER.sub(r"\1: ", said_in(response.content))
        match response.status_code:
            case HTTPStatus.UNAUTHORIZED:
                # Each of our APIs answers another's token so: the address may be the wrong one.
                said = f"{self._name} at {self.url} does not accept the first token of {self._auth_setting}"
                return Problem(said, then=CONFIG)
            case HTTPStatus.FORBIDDEN:
                return Problem(detail, then=f"an operator's token in {self._auth_setting}")
            case HTTPStatus.NOT_FOUND:
                the_list = next(self._lists[each] for each in self._lists if path.startswith(each))
                return NotThere(detail, then=absent or the_list)
            case status if status in _REFUSED:
                return Problem(detail, then=then)
            case HTTPStatus.SERVICE_UNAVAILABLE:
                return NotNow(f"{self._name} cannot answer now: {detail}", then="modelswap doctor")
        return Problem(f"{self._name} refused: {response.status_code} {detail}", then="modelswap doctor")


def _outer_trace(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the trace that the command is a step of, from OpenTelemetry's variables for that (TRACEPARENT)."""
    variables = {name: name.upper() for name in TRACE_HEADERS}
    return trace_in({name: environment[each] for name, each in variables.items() if each in environment})


def first_secret(tokens: Sequence[SecretStr]) -> str:
    return read_token(tokens[0].get_secret_value()).secret


async def patiently(ask: Callable[[], Awaitable[V]]) -> V:
    """
    Return the result of *ask*; while what it asks is restarted, wait and repeat, and say so once.

    Raises:
        NoAnswer, NotNow: if it does not answer for a minute.

    """
    loop = asyncio.get_running_loop()
    until = None
    while True:
        try:
            return await ask()
        except (NoAnswer, NotNow) as problem:
            if until is None:
                until = loop.time() + _PATIENCE_SECONDS
                tell(f"{problem}; waiting for it")
            elif loop.time() > until:
                raise
        await asyncio.sleep(_AGAIN_SECONDS)


def show_command(training_id: str) -> str:
    return f"modelswap trainings show {shell_quote(training_id)}"


def segment(text: str) -> str:
    """Quote an id as one segment of a path."""
    if not text:
        raise Problem("an empty id names nothing", then=_HELP)
    return quoted(text)
