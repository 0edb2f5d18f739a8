"""
Transport of the HTTP client to an application of the same process. Edge.

Unlike httpx's own, it hands over each part of a response as it comes: streams of events do not end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import httpx
from starlette.types import ASGIApp, Message, Scope

#: Parts that are sent but not read yet.
_WAITING: Final = 16
_END: Final[Message] = {"type": "http.response.body"}


class Inside(httpx.AsyncBaseTransport):
    """Answers requests by *app*."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        exchange = _Exchange(body)
        exchange.run(self._app, _scope(request))
        start = await exchange.next()
        if start["type"] != "http.response.start":
            raise httpx.RemoteProtocolError("the application sent no response", request=request)
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request's response, part by part."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._is_read = False
        self._messages: asyncio.Queue[Message] = asyncio.Queue(_WAITING)
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def run(self, app: ASGIApp, scope: Scope) -> None:
        self._task = asyncio.create_task(self._run(app, scope))

    async def next(self) -> Message:
        return await self._messages.get()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        self._gone.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        # An application that fails has answered 500 and logged why, then raises.
        with contextlib.suppress(Exception):
            await app(scope, self._receive, self._messages.put)
        await self._messages.put(_END)

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}


def _scope(request: httpx.Request) -> Scope:
    path = request.url.path
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": None,
        "server": (request.url.host, None),
    }
