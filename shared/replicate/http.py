"""
HTTP requests to Replicate: limited in rate, time and size; its errors become ours. Edge.

No call is retried: the broker's delays retry the delivery, and the consumer's circuit breaker sends one probe. Tried
with stamina (2026-11): an outage with 64 deliveries then gets 192 calls instead of 64, and each delivery is held until
its Retry-After.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import JsonValue, ValidationError

from shared.contract.errors import DependencyDown
from shared.replicate.errors import BadAnswer, NoAnswer, error_for
from shared.replicate.routes import NO_ANSWER, NO_CONNECTION, Route
from shared.replicate.training import NotATraining, without_surrogates

Result = TypeVar("Result")

_NAME_IN_BRACES: Final = re.compile(r"\{\w+\}")
_READS_PER_MINUTE: Final = 3000
_PREDICTIONS_PER_MINUTE: Final = 600
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
#: Limit of each step of a request; httpx has none for the whole request, so `Http` adds one.
_STEP_TIMEOUTS: Final = httpx.Timeout(10, connect=3)
#: No limit: the callers are limited, and one that waited for another's connection would find Replicate away.
_CONNECTIONS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)
#: The request was not sent, so it had no effect.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)
#: Read once per process: to read the trusted certificates takes 60 ms of CPU, and plain HTTP needs a context, too.
_tls_context = cache(httpx.create_ssl_context)

#: Called after each request with its route, its status and its seconds. The status is that of HTTP, or `NO_CONNECTION`
#: or `NO_ANSWER`.
Observe = Callable[[Route, str, float], None]

#: Share of Replicate's limit that we use: others may call with the same account.
_SHARE = 0.9
#: Share of that which may be called at once after a pause.
_BURST = 0.1


class Budget:
    """
    At most *per_minute* calls in any minute.

    Calls over the limit are queued in order: each waits longer than the one before.
    """

    def __init__(self, per_minute: float) -> None:
        allowed = per_minute * _SHARE
        self._burst = max(allowed * _BURST, 1.0)
        self._per_second = allowed * (1 - _BURST) / 60
        self._left = self._burst
        self._then: float | None = None

    def take(self, now: float) -> float:
        """Reserve a call at *now* (seconds of a monotonic clock); return how many seconds to wait before making it."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self._left = min(self._burst, self._left + passed * self._per_second) - 1
        return max(0.0, -self._left / self._per_second)


class Http:
    """Sends requests to one API. None of its errors contains the token."""

    def __init__(
        self,
        token: str,
        url: str,
        *,
        timeout_seconds: float,
        observe: Observe,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        if not (token.isascii() and token.isprintable()) or " " in token:
            # The HTTP library would quote the token in its own error.
            raise ValueError("the Replicate API token holds characters that no token has; is there a line break in it?")
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = httpx.URL(url.rstrip("/"))
        self._timeout_seconds = timeout_seconds
        self._observe = observe
        self._clock = clock
        self._sleep = sleep
        self._reads = Budget(_READS_PER_MINUTE)
        self._predictions = Budget(_PREDICTIONS_PER_MINUTE)
        # A configured proxy cannot reach a simulator on this machine.
        trust_env = not _is_this_machine(self.url.host)
        self._http = httpx.AsyncClient(
            timeout=_STEP_TIMEOUTS,
            limits=_CONNECTIONS,
            headers={"Accept-Encoding": "identity", "User-Agent": "modelswap"},
            follow_redirects=False,
            trust_env=trust_env,
            verify=_tls_context(trust_env=trust_env),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(
        self,
        what: str,
        decode: Callable[[bytes], Result],
        route: Route,
        *ids: str,
        cursor: str | None = None,
        body: Mapping[str, JsonValue] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Result:
        """
        Send a request to *route*, which has a place in braces for each of *ids*; return the decoded response.

        Raises:
            DependencyDown: if Replicate cannot be reached, or refuses all requests for now.
            BadAnswer, NoAnswer, NotThere, or another error of `shared.replicate.errors`, by the response.

        """
        method, _, path = _filled(route, ids).partition(" ")
        request = self._http.build_request(
            method,
            f"{self.url}{path}",
            params={"cursor": cursor} if cursor else None,
            json=body,
            headers={**self._authorization, **(headers or {})},
        )
        budget = self._predictions if route is Route.CREATE_PREDICTION else self._reads
        wait_seconds = budget.take(self._clock())
        if wait_seconds:
            await self._sleep(wait_seconds)
        status, answered, content = await self._send(what, route, request)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise error_for(what, status, answered, content)
        try:
            return _decoded(decode, content)
        except (NotATraining, ValidationError) as error:
            raise BadAnswer(f"{what}: {error}") from error

    async def fetch(self, what: str, address: httpx.URL) -> tuple[int, httpx.Headers, bytes]:
        """Get *address* without our token."""
        return await self._send(what, Route.GET_OUTPUT, self._http.build_request("GET", address))

    async def _send(self, what: str, route: Route, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        began, status = self._clock(), NO_ANSWER
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.send(request, stream=True)
                try:
                    body = await _read(what, response)
                    status = str(response.status_code)
                    return response.status_code, response.headers, body
                finally:
                    await response.aclose()
        except _NOT_SENT as error:
            status = NO_CONNECTION
            raise DependencyDown(f"{what}: no connection ({type(error).__name__})", code="replicate_down") from error
        except (httpx.TransportError, TimeoutError) as error:
            raise NoAnswer(f"{what}: no answer ({type(error).__name__})") from error
        finally:
            self._observe(route, status, self._clock() - began)


def _decoded(decode: Callable[[bytes], Result], content: bytes) -> Result:
    """Decode *content*; half an emoji in one item of a list must not make the others unreadable."""
    try:
        return decode(content)
    except ValidationError:
        whole = without_surrogates(content)
        if whole is None:
            raise
        return decode(whole)


def _filled(route: Route, ids: Sequence[str]) -> str:
    """Return *route* with *ids* in place of its names in braces."""
    if not all(each.strip(".") for each in ids):
        # httpx would resolve "." and "..", and the token would go to another URL.
        raise ValueError(f"{ids!r} are not valid ids")
    rest = iter(ids)
    return _NAME_IN_BRACES.sub(lambda _: quote(next(rest), safe=""), route)


async def _read(what: str, response: httpx.Response) -> bytes:
    # Raw, so that nothing is decompressed: a few kilobytes of gzip can expand to gigabytes.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadAnswer(f"{what}: an encoding that was not requested")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise BadAnswer(f"{what}: more than {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
