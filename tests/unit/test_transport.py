"""Writes of one turn of the event loop leave together, in order, and before whatever has to come after them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from shared.runtime.broker.transport import JoinedWrites, JoiningWriter


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
        transport = JoinedWrites()
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
