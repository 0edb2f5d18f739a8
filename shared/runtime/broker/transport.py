"""
The connection's transport: joins writes, and decodes messages and confirms before the client library sees them.

The library writes each message separately, and uvloop sends each write at once. Joining all writes of one turn of the
event loop saves system calls on both sides, and RabbitMQ parses fewer, larger reads. What is decoded here, and why:
`decoding`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import aiormq
from aiormq.connection import TransportFactory
from pamqp.frame import marshal
from pamqp.heartbeat import Heartbeat
from yarl import URL

from shared.runtime.broker.decoding import Incoming

_HEARTBEAT: Final = marshal(Heartbeat(), 0)
_HEARTBEAT_SECONDS: Final = 1.0


class Transport(TransportFactory):
    """Opens one connection; with TLS for `amqps`."""

    writer: JoiningWriter

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to *url*'s host and port, as the library's own factories do."""
        provider = kwargs.pop("ssl_context_provider")
        context: ssl.SSLContext | None = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = _Protocol(self._incoming, reader, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "localhost", url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise aiormq.exceptions.AMQPConnectionError(*error.args) from error
        self.writer = JoiningWriter(transport, protocol, reader, loop)
        return reader, self.writer


class _Protocol(asyncio.StreamReaderProtocol):
    """Gives the client library what `Incoming` leaves to it."""

    def __init__(self, incoming: Incoming, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._incoming = incoming
        self._clock = loop.time
        self._heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        others = self._incoming.feed(data)
        now = self._clock()
        if not others and now > self._heard_at + _HEARTBEAT_SECONDS:
            others = _HEARTBEAT  # else the library takes a connection that only delivers for a dead one
        if others:
            self._heard_at = now
            super().data_received(others)


class JoiningWriter(asyncio.StreamWriter):
    """A stream writer that sends once for each turn of the event loop, in the order of the writes."""

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.StreamReaderProtocol,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._transport = transport
        self._call_soon = loop.call_soon
        self._unsent: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* in the next turn of the loop, or earlier on `drain` or `close`."""
        if not self._unsent:
            self._call_soon(self._send)
        self._unsent.append(data)

    async def drain(self) -> None:
        """Send what was written, and wait while the transport's buffer is full."""
        self._send()
        await super().drain()

    def write_eof(self) -> None:
        """Send what was written, then the end of the stream."""
        self._send()
        super().write_eof()

    def close(self) -> None:
        """Send what was written, then close."""
        self._send()
        super().close()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        # uvloop raises on a write to a transport that was closed meanwhile.
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))
