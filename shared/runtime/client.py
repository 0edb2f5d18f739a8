"""HTTP client for ops and the command line: requests, typed answers, pages; transport errors mapped once. Edge."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import JsonValue, TypeAdapter, ValidationError

from shared.contract.answers import Page, said_in
from shared.contract.errors import DependencyDown
from shared.runtime import tracing
from shared.runtime.span import NO_SPAN, Context

V = TypeVar("V")

Response = httpx.Response

SECONDS: Final = 10.0
_NOT_REACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)
#: Read once per process: to read the trusted certificates takes 60 ms of CPU, and plain HTTP needs a context, too.
_tls_context = cache(httpx.create_ssl_context)


class ServiceDown(DependencyDown):
    """A server does not answer, refuses our token, or answers in an unexpected way."""

    code = "service_down"


class Unanswered(ServiceDown):
    """There was no response, or only a part of one; *why* is the name of the HTTP library's error."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} does not answer ({why})")
        self.why = why


class NotReached(Unanswered):
    """There was no connection: nothing listens at the address, or it is out of reach."""


class Hung(Unanswered):
    """The server took the connection, but did not answer in time."""


class ServiceFailed(ServiceDown):
    """It answers in an unexpected way, maybe to this request only."""

    may_concern_one = True


class HttpClient:
    """Requests to the server at *url*, as an async context manager. Follows no redirect and uses no proxy."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        trace: Context = NO_SPAN.context,
    ) -> None:
        """Requests are a part of the trace of the current span; without one, of *trace*."""
        #: Where its paths begin.
        self.url = url
        headers = {**trace, **({} if token is None else {"Authorization": f"Bearer {token}"})}
        self._http = httpx.AsyncClient(
            headers=headers, trust_env=False, transport=transport, verify=_tls_context(trust_env=False)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str = "",
        *,
        query: Mapping[str, str | None] | None = None,
        body: JsonValue | Mapping[str, JsonValue] = None,
        content: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        seconds: float = SECONDS,
        deadline_seconds: float | None = None,
        limit_bytes: int | None = None,
    ) -> httpx.Response:
        """
        Send a request with *body* as JSON, or *content* as it is, and return the response, whatever its status.

        Parameters and headers that are None are left out.

        Raises:
            NotReached, Hung, Unanswered: if nothing comes for *seconds*, or not all within *deadline_seconds* (if any).
            ServiceFailed: if the body is larger than *limit_bytes* (if any).

        """
        url = self.url + path
        timeout = httpx.Timeout(seconds, connect=min(seconds, SECONDS))
        try:
            async with asyncio.timeout(deadline_seconds):
                async with self._http.stream(
                    method,
                    url,
                    # Without parameters, those of the address are kept.
                    params=_given(query) or None,
                    json=body,
                    content=content,
                    headers={**tracing.context(), **_given(headers)},
                    timeout=timeout,
                ) as response:
                    return await _whole(response, limit_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise _away(url, error) from error


def _away(url: str, error: Exception) -> Unanswered:
    if isinstance(error, _NOT_REACHED):
        return NotReached(url, type(error).__name__)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return Hung(url, type(error).__name__)
    return Unanswered(url, type(error).__name__)


async def _whole(response: httpx.Response, limit_bytes: int | None) -> httpx.Response:
    """Read the body of *response*, up to *limit_bytes*."""
    if limit_bytes is None:
        await response.aread()
        return response
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > limit_bytes:
            raise ServiceFailed(f"{response.url} answers with more than {limit_bytes} bytes")
    return httpx.Response(response.status_code, content=bytes(body), request=response.request)


def _given(values: Mapping[str, str | None] | None) -> dict[str, str]:
    return {name: text for name, text in (values or {}).items() if text is not None}


def read(kind: type[V], response: httpx.Response) -> V:
    """
    Return the body of *response*.

    Raises:
        ServiceFailed: if it is an error, or no *kind*.

    """
    if not response.is_success:
        raise unexpected(response)
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise another_version(response.url) from error


def unexpected(response: httpx.Response) -> ServiceFailed:
    return ServiceFailed(f"{response.url} answered {response.status_code}: {said_in(response.content)}")


def token_refused(response: httpx.Response) -> ServiceDown | None:
    """Return the error if *response* refuses our token, else None."""
    if response.status_code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return None
    return ServiceDown(
        f"{response.url} does not accept our token: check MODELSWAP_API_TOKENS of ops and of that service"
    )


def another_version(url: object) -> ServiceFailed:
    return ServiceFailed(f"{url} answers like another version of modelswap")


async def items(
    get_page: Callable[[Mapping[str, str]], Awaitable[Page[V]]], *, page_size: int, limit: int | None = None
) -> AsyncIterator[V]:
    """Yield at most *limit* items (None: all), with one page in memory; *get_page* takes the query of a page."""
    left, cursor = sys.maxsize if limit is None else limit, None
    while left > 0:
        query = {"limit": str(min(page_size, left))}
        page = await get_page(query if cursor is None else {**query, "cursor": cursor})
        for item in page.items:
            yield item
        left -= len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def quoted(text: str) -> str:
    """Quote *text* as one segment of a path. Clients resolve a bare ``.`` or ``..``: that would be another path."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")
