"""
HTTP server: uvicorn with httptools, with limits on all memory and time that a client can use. Edge.

uvicorn limits neither headers nor trailers nor pipelined requests, and waits forever (measured 2026-11: 13 MB of small
headers took 262 MB, 20 MB of pipelined requests 1.4 GB, one header of 100 MB 48 s of CPU). h11 bounds sizes but needs
twice the CPU, granian and zttp (experimental) bound sizes but not connections. So the protocol of uvicorn is kept, and
counts. Every connection has a deadline; `Connections` holds those for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum, auto
from itertools import chain
from typing import Any, Final

import httptools
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shared.runtime import telemetry
from shared.runtime.connections import Connections, Limits
from shared.runtime.refusals import (
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
    OVERLOADED,
    REFUSALS,
    TIMEOUT,
    TOO_MANY_CONNECTIONS,
    URL_TOO_LONG,
    Refusal,
    Refused,
)

log = structlog.get_logger()

_MAX_PIPELINED: Final = 8
#: Answered even under overload, so that an orchestrator does not restart a busy process.
_HEALTH: Final = frozenset({b"/livez", b"/healthz", b"/readyz", b"/metrics"})
#: A connection that is closed without an answer is counted as this.
_DROPPED: Final = "dropped"
#: How long a client that is refused may take to read the answer.
_LINGER_SECONDS: Final = 1.0
_DESCRIPTORS: Final = 4096
#: Files, and connections to RabbitMQ, Postgres and Replicate.
_OTHER_DESCRIPTORS: Final = 200
_LOG_EVERY_TICKS: Final = 100


class Server(uvicorn.Server):
    """Serves an application inside a process with other work, so it does not handle signals."""

    def __init__(self, app: ASGIApp, *, limits: Limits | None = None, drain_seconds: float = 5.0) -> None:
        limits = limits or Limits()
        most = min(limits.connections, _raise_descriptors() - _OTHER_DESCRIPTORS)
        requests = limits.requests * most // limits.connections
        self.connections = Connections(replace(limits, connections=most, requests=requests))
        for kind in (_DROPPED, *(each.kind for each in REFUSALS)):
            telemetry.refused_connections.labels(kind)
        super().__init__(_Config(app, self.connections, drain_seconds))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Expire connections and log refusals; called every tenth of a second."""
        self.connections.expire(asyncio.get_running_loop().time())
        telemetry.connections.set(len(self.connections))
        if counter % _LOG_EVERY_TICKS == 0 and self.connections.refusals:
            log.warning("connections.refused", open=len(self.connections), refused=dict(self.connections.refusals))
            self.connections.refusals.clear()
        return await super().on_tick(counter)


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, connections: Connections, drain_seconds: float) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=connections.limits.idle_seconds,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
        )
        self.connections = connections


class _State(Enum):
    AWAITED = auto()  # no byte of a request yet
    HEAD = auto()
    BODY = auto()
    WORKING = auto()  # the request is complete, the answer is not
    IDLE = auto()  # between two requests
    REFUSED = auto()


class BoundedProtocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(
        self,
        config: _Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = math.inf
        self.held_bytes = 0
        self._connections = config.connections
        self._limits = config.connections.limits
        self._state = _State.AWAITED
        #: Bytes of this request that are no body, less the size of the body.
        self._surplus_bytes = 0

    # Callbacks of the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._connections.enter(self, self.client[0] if self.client else None):
            self._wait(self._limits.header_seconds)
        else:
            self._refuse(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.REFUSED:
            return
        if self._state is _State.IDLE:
            self._state = _State.AWAITED
            self._wait(self._limits.header_seconds)
        self._unset_keepalive_if_required()
        self._surplus_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # It is answered like any other: there is nothing to upgrade to.
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.refusal if isinstance(cause, Refused) else BAD_REQUEST)
            return
        if self._surplus_bytes > MAX_HEAD_BYTES or (self.headers and len(self.headers) > MAX_HEADERS):
            in_url = self._state is _State.HEAD and not self.headers
            self._refuse(URL_TOO_LONG if in_url else HEAD_TOO_LARGE)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait(self._limits.write_seconds)
        if not self._connections.hold(self, self.transport.get_write_buffer_size()):
            self.drop()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.release(self)
        if self._state is _State.WORKING:
            self.deadline = math.inf
        elif self._state is _State.IDLE:
            self._rest()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise Refused(BAD_REQUEST)
        if self._state is not _State.AWAITED:
            self._wait(self._limits.header_seconds)
        self._state = _State.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.url) > MAX_URL_BYTES:
            raise Refused(URL_TOO_LONG)
        if len(self.headers) > MAX_HEADERS or sum(map(len, chain.from_iterable(self.headers))) > MAX_HEAD_BYTES:
            raise Refused(HEAD_TOO_LARGE)
        if self._is_overloaded() and self.url.partition(b"?")[0] not in _HEALTH:
            raise Refused(OVERLOADED)
        super().on_headers_complete()
        self.headers = []  # Trailers come here, which nothing reads.
        self._state = _State.BODY
        self._wait(self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        size_bytes = len(body)
        self._surplus_bytes = max(0, self._surplus_bytes - 2 * size_bytes)
        if not self.cycle.response_complete:
            super().on_body(body)
            if not self._connections.hold(self, size_bytes):
                raise Refused(OVERLOADED)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._surplus_bytes = 0
        if self.cycle.response_complete:
            self._rest()
        else:
            self._state = _State.WORKING
            if not self.flow.write_paused:  # else the client is to take the answer before
                self.deadline = math.inf

    # Ends of requests and connections.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.flow.write_paused:
            self._connections.release(self)
        if self.transport.is_closing():
            self._wait(self._limits.write_seconds)
        elif self._state is _State.WORKING and self.cycle.response_complete:
            self._rest()

    def expire(self) -> None:
        """Close the connection, because its deadline has passed."""
        if self._state in (_State.HEAD, _State.BODY) and not self.transport.is_closing():
            self._refuse(TIMEOUT)
        else:
            self.drop()

    def drop(self) -> None:
        """Close at once, without an answer."""
        if self._state is not _State.REFUSED:
            self._count(_DROPPED)
        self._state = _State.REFUSED
        self._leave_application()
        self.transport.abort()

    def _wait(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds

    def _rest(self) -> None:
        self._state = _State.IDLE
        self._wait(self._limits.idle_seconds)

    def _is_overloaded(self) -> bool:
        most = self._limits.requests
        return len(self.tasks) >= most and self._connections.working >= most

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with *refusal* and close, or only close if another response is due or has begun."""
        self._count(refusal.kind)
        has_begun = self._state is not _State.AWAITED
        self._state = _State.REFUSED
        self._unset_keepalive_if_required()
        if self._is_answering() and (self.pipeline or self.cycle.response_started or not self.cycle.more_body):
            self.drop()
            return
        self._leave_application()
        self.transport.write(refusal.answer)
        if has_begun:
            # More data is in flight, and closing before it is read could reset the connection and lose the response.
            self.transport.write_eof()
            self._wait(_LINGER_SECONDS)
        else:
            self.transport.close()

    def _leave_application(self) -> None:
        """Signal the disconnect to the application, and free the buffers."""
        self._connections.release(self)
        if self._is_answering():
            self.cycle.disconnected = True
            self.cycle.body = bytearray()
            self.cycle.message_event.set()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _count(self, kind: str) -> None:
        self._connections.refusals[kind] += 1
        telemetry.refused_connections.labels(kind).inc()


def _raise_descriptors() -> int:
    """Raise the limit of open files as far as useful and allowed; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
