"""Server-sent events: the response that sends them, and what all streams of events have in common. Edge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.contract.errors import TransientError

#: A client that takes nothing for so long is disconnected.
_SEND_SECONDS: Final = 30.0
#: A comment line keeps proxies from closing the connection.
HEARTBEAT_SECONDS: Final = 15.0
HEARTBEAT: Final = b":\n\n"
#: Reconnection delay for clients.
RETRY: Final = b"retry: 2000\n\n"


class TooManyStreams(TransientError):
    """The limit of open event streams is reached."""

    code = "too_many_streams"


class Follower(Protocol):
    """A client of a stream."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what to send until the stream ends."""
        ...


class EventStream(Response):
    """Sends events until the stream ends, the client leaves, or it takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(
        self, follow: Callable[[], AbstractContextManager[Follower]], *, send_seconds: float = _SEND_SECONDS
    ) -> None:
        """*follow* registers the client until its context ends."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # The length is unknown.
        del self.headers["content-length"]
        self._follow = follow
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with self._follow() as follower:
            sending = asyncio.create_task(self._send(follower, send))
            leaving = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                leaving.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, follower: Follower, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self._send_seconds):
                await send(message)

        # The server closes a connection whose response has no end.
        with contextlib.suppress(TimeoutError):
            await send_soon({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with contextlib.aclosing(follower.chunks()) as chunks:
                async for chunk in chunks:
                    await send_soon({"type": "http.response.body", "body": chunk, "more_body": True})
            await send_soon({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
