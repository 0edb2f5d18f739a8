"""Server-sent events: the response that sends them, and what all streams of events have in common. Edge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from shared.contract.errors import TransientError
from shared.runtime import telemetry
from shared.runtime.waiting import wait_for_any

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


F = TypeVar("F", bound=Follower)


class Followers(Generic[F]):
    """The clients that follow things, by the ids of these."""

    def __init__(self, *, limit: int, things: str) -> None:
        """Accept at most *limit* clients at a time; *things* are named in the refusal."""
        self._limit = limit
        self._things = things
        self._by_id: dict[UUID, set[F]] = {}

    @property
    def count(self) -> int:
        """Number of clients."""
        return sum(map(len, self._by_id.values()))

    def all(self) -> Mapping[UUID, tuple[F, ...]]:
        """Return those who follow now, by what they follow."""
        return {followed: tuple(followers) for followed, followers in self._by_id.items()}

    @contextmanager
    def added(self, followed: UUID, follower: F) -> Iterator[F]:
        """
        Register *follower* until the context ends.

        Raises:
            TooManyStreams: if the limit is reached.

        """
        if self.count >= self._limit:
            raise TooManyStreams(f"{self._limit} clients follow {self._things} already")
        followers = self._by_id.setdefault(followed, set())
        followers.add(follower)
        telemetry.streams.inc()
        try:
            yield follower
        finally:
            telemetry.streams.dec()
            followers.discard(follower)
            if not followers:
                self._by_id.pop(followed, None)


async def chunks_of(
    take: Callable[[], tuple[bytes, bool]], *, news: asyncio.Event, stopping: asyncio.Event, heartbeat_seconds: float
) -> AsyncGenerator[bytes, None]:
    """
    Yield what *take* returns at first and whenever *news* is set, until it is the last or *stopping* is set.

    *take* returns an encoded event, or nothing, and whether no other follows.
    """
    yield RETRY
    while not stopping.is_set():
        news.clear()
        event, is_last = take()
        if event:
            yield event
        if is_last:
            return
        await wait_for_any(news, stopping, seconds=heartbeat_seconds)
        if not news.is_set():
            yield HEARTBEAT


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
                ends = await asyncio.gather(sending, leaving, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end  # a bug, which the server logs

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
