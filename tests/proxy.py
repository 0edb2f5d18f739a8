"""What stands between a client and its server: hands bytes on, holds them up, cuts, or falls silent for good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_CHUNK: Final = 65_536
_HOST: Final = "127.0.0.1"
#: Five processes that start at once on a busy machine take more than one minute.
_SILENCED_SECONDS: Final = 240


@dataclass
class Proxy:
    """Hands on to the first of *servers* that takes a connection."""

    servers: Sequence[tuple[str, int]]
    #: Begin with another server for each connection, as a load balancer does.
    takes_turns: bool = False
    #: A client that sends one of these hears nothing any more, and neither does its server.
    falls_silent_at: Sequence[bytes] = ()
    #: Accept, but say nothing at all.
    is_silent: bool = False
    #: How many connections were made.
    connections: int = 0
    #: How many connections have fallen silent, or were so from the beginning.
    silenced: int = 0
    #: How many pieces of what clients send are held up now.
    held: int = 0
    port: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _silent: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._flowing.set()

    def url(self, of: str) -> str:
        """The address *of* a server, with this in its place."""
        parts = urlsplit(of)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{_HOST}:{self.port}"))

    async def until_silenced(self, times: int) -> None:
        """Wait until as many connections have fallen silent."""
        async with asyncio.timeout(_SILENCED_SECONDS):
            while self.silenced < times:
                self._changed.clear()
                await self._changed.wait()

    def fall_silent_at(self, *words: bytes) -> None:
        """From now on clients that send one of *words* hear nothing any more; all have to connect again."""
        self.falls_silent_at = words
        self.cut()

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        for task in self._tasks:
            task.cancel()

    def hold(self) -> None:
        """Hand on nothing until `resume`, of new connections either; nothing is lost."""
        self._flowing.clear()

    def resume(self) -> None:
        """Hand on what was held up."""
        self._flowing.set()

    def heal(self) -> None:
        """Hand on everything from now on; those that fell silent are cut off."""
        self.falls_silent_at, self.is_silent = (), False
        for task in self._silent:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if self.is_silent:
                await self._fall_silent()
            upstream, downstream = await self._connect()
            with contextlib.closing(downstream):
                answering = asyncio.create_task(self._answer(upstream, writer))
                try:
                    await self._ask(reader, downstream, answering)
                finally:
                    answering.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # a test's end, or a server's
        finally:
            self._tasks.discard(task)
            self._silent.discard(task)
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, answering: asyncio.Task[None]
    ) -> None:
        tail = b""
        while True:
            reading = asyncio.create_task(reader.read(_CHUNK))
            await asyncio.wait((reading, answering), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() or not (chunk := reading.result()):
                reading.cancel()
                return
            seen = tail + chunk
            if any(words in seen for words in self.falls_silent_at):
                answering.cancel()
                await self._fall_silent()
            tail = seen[-64:]
            self.held += 1
            try:
                await self._flowing.wait()
            finally:
                self.held -= 1
            server.write(chunk)
            await server.drain()

    async def _answer(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await server.read(_CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()

    async def _fall_silent(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._silent.add(task)
        self.silenced += 1
        self._changed.set()
        await asyncio.Event().wait()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = self._connections % len(self.servers) if self.takes_turns else 0
        self._connections += 1
        for host, port in (*self.servers[first:], *self.servers[:first]):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port)
        raise ConnectionRefusedError


@contextlib.asynccontextmanager
async def proxied(
    *urls: str, takes_turns: bool = False, falls_silent_at: Sequence[bytes] = (), is_silent: bool = False
) -> AsyncIterator[Proxy]:
    """A proxy before the servers at *urls*."""
    parts = [urlsplit(url) for url in urls]
    servers = [(each.hostname or _HOST, each.port or 0) for each in parts]
    proxy = Proxy(servers, takes_turns, falls_silent_at=falls_silent_at, is_silent=is_silent)
    server = await asyncio.start_server(proxy._serve, _HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
        await server.wait_closed()
