"""
Posts webhooks to addresses that others chose. Edge.

The name is looked up and all its addresses are checked at each attempt, and the connection goes to one of the checked
addresses: a name that leads elsewhere later (DNS rebinding) changes nothing. TLS still checks the certificate against
the name. No redirect is followed, no proxy used, no connection kept, no body decompressed. A request ends after its
time limit, however slowly the response comes, and only the beginning of a response is read. (2026-11: an endpoint that
sent interim responses without end took all of the CPU until the time limit, and all other deliveries failed.)

httpcore and not httpx, because httpx offers no way to choose the address (2026-11).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpcore
import httpx

from services.notifier.addresses import Network, NotPublic, is_allowed, uses_tls
from services.notifier.attempts import Answer
from shared.contract.text import clean
from shared.runtime import tracing

_SECONDS: Final = 15.0
#: So much of a response is read: interim responses, headers and body.
_RESPONSE_BYTES: Final = 64 * 1024
#: For the beginning of the body, which is only shown.
_BODY_SECONDS: Final = 1.0
_BODY_BYTES: Final = 4096
_MOST_ADDRESSES: Final = 4
#: Share of the time limit for a connection to one of several addresses: a silent one leaves time for the others.
_CONNECT_SHARE: Final = 0.2


class Resolve(Protocol):
    """Looks up the IP addresses of a name."""

    async def __call__(self, host: str, port: int, /) -> Sequence[str]: ...


async def look_up(host: str, port: int) -> Sequence[str]:
    """
    Look up *host* in a thread of its own.

    Not in a pool of threads (the event loop's has four): a slow name server would delay the look-ups of all others.
    """
    found: Future[Sequence[str]] = Future()
    # Now it cannot be canceled: what comes out of time is dropped.
    found.set_running_or_notify_cancel()

    def work() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(info[4][0]) for info in infos)))
        except OSError as error:
            found.set_exception(error)
        except ValueError:  # a label that is too long for IDNA
            found.set_exception(OSError(f"{host} is no host name"))

    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as error:  # as many as this machine lets us have wait for slow name servers
        raise OSError(f"{host} can not be looked up now: {error}") from error
    return await asyncio.wrap_future(found)


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection that is read only up to a number of bytes."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left_bytes = _RESPONSE_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (the library's)
        if not self._left_bytes:
            raise httpcore.ReadError(f"a response without an end within {_RESPONSE_BYTES} bytes")
        data = await self._stream.read(min(max_bytes, self._left_bytes), timeout)
        self._left_bytes -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, resolve: Resolve, allowed: Sequence[Network], *, is_tls: bool, connect_seconds: float) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._is_tls = is_tls
        self._connect_seconds = connect_seconds
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the library's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await self._resolve(host, port)
        for address in found:
            if not is_allowed(ip_address(address), self._allowed, is_tls=self._is_tls):
                raise NotPublic(f"{host} leads to {address}, which is not on the public internet")
        if not found:
            raise OSError(f"{host} has no address")
        *others, last = found[:_MOST_ADDRESSES]
        connect = partial(self._sockets.connect_tcp, local_address=local_address, socket_options=socket_options)
        for each in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return _Bounded(await connect(each, port, self._connect_seconds))
        return _Bounded(await connect(last, port, timeout))


class Client:
    """Posts webhooks."""

    def __init__(
        self,
        *,
        allowed: Sequence[Network] = (),
        resolve: Resolve = look_up,
        tls: ssl.SSLContext | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        """*allowed* networks may be called although they are not public, and without TLS: for tests."""
        self._allowed = allowed
        self._resolve = resolve
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._seconds = seconds

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post *body*; return the response, or why there is none."""
        answer = await self._answer(url, body, headers)
        status = {} if answer.status is None else {"http.response.status_code": answer.status}
        error = None if answer.is_accepted else str(answer.status or "no_answer")
        tracing.ended("POST", answer.took_ms / 1000, {"http.request.method": "POST", **status}, error=error)
        return answer

    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        clock = asyncio.get_running_loop().time
        began = clock()

        def took_ms() -> int:
            return round((clock() - began) * 1000)

        try:
            async with asyncio.timeout(self._seconds) as limit:
                return await self._post(url, body, headers, took_ms, limit)
        except TimeoutError:
            return Answer(None, f"no response within {self._seconds:g} s", took_ms())
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, NotPublic) as error:
            said = str(error) or type(error).__name__
            return Answer(None, clean(said, _BODY_BYTES), took_ms())

    async def _post(
        self, url: str, body: bytes, headers: Mapping[str, str], took_ms: Callable[[], int], limit: asyncio.Timeout
    ) -> Answer:
        network = _CheckedNetwork(
            self._resolve, self._allowed, is_tls=uses_tls(url), connect_seconds=self._seconds * _CONNECT_SHARE
        )
        parts = urlsplit(url)
        # The library would name an IPv6 address without its brackets, and leave out what follows a semicolon.
        ours = {"host": parts.netloc, "user-agent": "modelswap-webhooks", "accept-encoding": "identity"}
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        sent = list({**ours, **headers}.items())
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=network, max_keepalive_connections=0
            ) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions={"target": target}) as response,
        ):
            ms = took_ms()
            limit.reschedule(None)  # it answered; the body has a limit of its own
            told = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
            text = await _beginning(response.aiter_stream())
            return Answer(response.status, text, ms, told.decode("latin-1"))


async def _beginning(parts: AsyncIterable[bytes]) -> str:
    """Read the beginning of a body; what is not there soon, or not readable, is left out."""
    found = bytearray()
    with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in parts:
                found += part[:_BODY_BYTES]
                if len(found) >= _BODY_BYTES:
                    break
    return clean(bytes(found[:_BODY_BYTES]).decode("utf-8", "replace"), _BODY_BYTES)
