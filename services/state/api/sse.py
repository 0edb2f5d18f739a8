"""The response of server-sent events. Edge."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from services.state.streams import Follower, Watcher
from services.state.views import TrainingView

#: A client that takes nothing for so long is disconnected.
_SEND_SECONDS: Final = 30.0

#: Example in the API's description.
EXAMPLE: Final = """\
id: 1764072000000000-042
event: progress
data: {"training_id": "zz4ibbonubfz7carwiefibzgga", "stage": "running", "progress": 42, "eta_seconds": 310, …}

"""


class EventStream(Response):
    """Sends updates until the training has ended, the client leaves, or it takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(
        self,
        watcher: Watcher,
        record: TrainingView,
        last_event_id: str | None,
        *,
        send_seconds: float = _SEND_SECONDS,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # The length is unknown.
        del self.headers["content-length"]
        self._watcher = watcher
        self._record = record
        self._last_event_id = last_event_id
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with self._watcher.followed(self._record, self._last_event_id) as follower:
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
