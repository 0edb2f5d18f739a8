"""Writes of one turn leave together and in order; the client library hears that the broker is alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiormq import spec
from pamqp.frame import marshal
from pamqp.heartbeat import Heartbeat
from yarl import URL

from shared.runtime.broker.decoding import Incoming
from shared.runtime.broker.transport import JoiningWriter, Transport


class Other:
    """The other end: what it received, read by read."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.reads.append(data)
        self.ended.set()
        writer.close()


@pytest.fixture
async def connected() -> AsyncIterator[tuple[JoiningWriter, Other]]:
    other = Other()
    async with await asyncio.start_server(other.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport = Transport(Incoming(lambda *_: None, lambda _: None))
        await transport.create(URL(f"amqp://127.0.0.1:{port}"), ssl_context_provider=None)
        yield transport.writer, other
        transport.writer.close()


async def test_writes_of_one_turn_leave_together(connected: tuple[JoiningWriter, Other]):
    writer, other = connected
    for part in (b"a", b"b", b"c"):
        writer.write(part)
    assert other.reads == []

    await asyncio.sleep(0)
    writer.write_eof()
    await other.ended.wait()

    assert other.reads == [b"abc"]


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_was_written_leaves_before_the_end(connected: tuple[JoiningWriter, Other], end: str):
    writer, other = connected
    writer.write(b"last")

    getattr(writer, end)()
    await other.ended.wait()

    assert other.reads == [b"last"]


async def test_a_write_to_a_closed_connection_is_dropped(connected: tuple[JoiningWriter, Other]):
    writer, other = connected
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    writer.write(b"in time")
    writer.close()
    writer.write(b"late")
    await other.ended.wait()

    assert other.reads == [b"in time"]
    assert errors == []


async def test_a_broker_that_only_confirms_is_heard_to_be_alive():
    confirmed = asyncio.Event()
    confirm = marshal(spec.Basic.Ack(1), 1)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(confirm)
        writer.close()

    incoming = Incoming(lambda *_: confirmed.set(), lambda _: None)
    incoming.channel = 1
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await Transport(incoming).create(URL(f"amqp://127.0.0.1:{port}"), ssl_context_provider=None)
        left_to_the_library = await reader.read()
        writer.close()

    assert confirmed.is_set()
    assert left_to_the_library == marshal(Heartbeat(), 0)
