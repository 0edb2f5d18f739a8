"""
Clients without a token flood every process: with bytes, and with connections that say nothing or little.

Memory stays, `/livez` is answered at once, requests that are meant well are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import pytest

from tests.end_to_end.conftest import SELF_STARTED, open_stack
from tests.end_to_end.test_walk import deliver
from tests.proc import forget_peak, memory_mb
from tests.servers import Urls
from tests.stack import SERVICES, Stack, plain_client

pytestmark = pytest.mark.attack

MOST_MB: Final = 16
#: An orchestrator asks several times; most of this is for a busy machine, whose client and servers share its cores.
LIVEZ_SECONDS: Final = 60
HEADER_SECONDS: Final = 3
#: How long an answer may take on a busy machine; without the flood it takes milliseconds.
PATIENCE_SECONDS: Final = 60
#: How long after its deadline a connection may be closed, on a busy machine.
CLOSED_SECONDS: Final = 60
#: Of each process: more than it takes.
CONNECTIONS: Final = 1_250
_DESCRIPTORS: Final = len(SERVICES) * CONNECTIONS + 500

POST: Final = b"POST /webhooks/replicate HTTP/1.1\r\nHost: a\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MB: Final = 1024 * 1024
#: How it begins, what comes again and again, and how many bytes of it.
FLOODS: Final = {
    "header": (POST + b"A: ", b"a" * 64, 100 * MB),
    "headers": (POST, b"a: b\r\n", 13 * MB),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\n", b"trailer: aaaaaaaa\r\n", 50 * MB),
    "chunk-extension": (CHUNKED + b"5;", b"extension", 50 * MB),
    "chunks": (CHUNKED, b"1\r\na\r\n", 20 * MB),
    "url": (b"GET /", b"a" * 64, 50 * MB),
    "pipeline": (b"", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", 20 * MB),
}


@pytest.fixture(scope="module")
async def stack(servers: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("attacks")
    settings = {"MODELSWAP_HEADER_TIMEOUT_SECONDS": str(HEADER_SECONDS)}
    async with open_stack(folder, servers, settings=settings) as (
        stack,
        _,
    ):
        await ask_all(stack)  # What is made at the first request is no flood's.
        yield stack


@pytest.fixture
def _descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS:
        pytest.skip(f"needs {_DESCRIPTORS} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _DESCRIPTORS), hard))


async def ask_all(stack: Stack) -> None:
    """One request that is meant well to every process."""
    body = f'{{"id":"attack{uuid4().hex[:20]}","status":"starting","version":"{SELF_STARTED}"}}'.encode()
    async with plain_client(timeout=PATIENCE_SECONDS) as client:
        answers = await asyncio.gather(
            deliver(stack, body, f"msg_{uuid4().hex}"),
            stack.api.get("/v1/users/nobody/model", timeout=PATIENCE_SECONDS),
            stack.ops.get("/v1/dead-letters", timeout=PATIENCE_SECONDS),
            client.get(f"{stack.url('extractor')}/openapi.json"),
        )
    assert [answer.status_code for answer in answers] == [202, 404, 200, 200]


async def livez_seconds(stack: Stack, service: str) -> float:
    """How long a new client waits for `/livez`."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.ports[service])
    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"status":"ok"}')
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def unharmed(stack: Stack) -> AsyncIterator[None]:
    """While this is open, every process keeps its memory and answers; at least one look is taken."""
    rest = {}
    for name, process in stack.processes.items():
        forget_peak(process.pid)
        rest[name] = memory_mb(process.pid)
    slowest = dict.fromkeys(SERVICES, 0.0)
    ended = asyncio.Event()

    async def watch() -> None:
        while True:
            took = await asyncio.gather(*(livez_seconds(stack, name) for name in SERVICES))
            slowest.update({name: max(slowest[name], each) for name, each in zip(SERVICES, took, strict=True)})
            await ask_all(stack)
            if ended.is_set():
                return
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        ended.set()
        await watching
    grown = {name: memory_mb(process.pid, "VmHWM") - rest[name] for name, process in stack.processes.items()}
    assert max(grown.values()) < MOST_MB, grown
    assert max(slowest.values()) < LIVEZ_SECONDS, slowest


def pour(port: int, begin: bytes, more: bytes, size: int) -> None:
    """Send *begin* and *size* bytes of *more*, until the server has had enough."""
    piece = more * (64 * 1024 // len(more))
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(begin)
        for _ in range(size // len(piece)):
            client.sendall(piece)


@pytest.mark.parametrize(("begin", "more", "size"), FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_bytes_costs_no_memory(stack, begin, more, size):
    async with unharmed(stack):
        await asyncio.gather(*(asyncio.to_thread(pour, port, begin, more, size) for port in stack.ports.values()))


def hold(port: int, first: bytes) -> list[socket.socket]:
    """Open as many connections as there are in a flood, and say *first* on each."""
    held = []
    for _ in range(CONNECTIONS):
        held.append(socket.create_connection(("127.0.0.1", port), timeout=60))
        say(held[-1], first)
    return held


def say(client: socket.socket, what: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server has closed it
        client.sendall(what)


def await_close(held: list[socket.socket]) -> None:
    """Wait until the server has closed each."""
    end = time.monotonic() + HEADER_SECONDS + CLOSED_SECONDS
    for client in held:
        client.settimeout(max(0.1, end - time.monotonic()))
        with contextlib.suppress(ConnectionError):
            while client.recv(4096):
                pass


@pytest.mark.usefixtures("_descriptors")
@pytest.mark.parametrize(
    ("first", "again", "is_closed"),
    [
        (b"", b"", True),
        (b"GET /livez HT", b"", True),
        (POST, b"a: b\r\n", True),
        (POST + b"Content-Length: 99\r\n\r\n", b"", False),  # a body may take longer than this test
    ],
    ids=["silent", "half-open", "slow-header", "no-body"],
)
async def test_a_flood_of_connections_is_closed_and_keeps_nobody_out(stack, first, again, is_closed):
    held: list[socket.socket] = []
    try:
        async with unharmed(stack):
            for port in stack.ports.values():
                held += await asyncio.to_thread(hold, port, first)
            await ask_all(stack)
            for client in held:
                say(client, again)
            if is_closed:
                await asyncio.to_thread(await_close, held)
    finally:
        for client in held:
            client.close()


async def test_a_stack_that_was_flooded_is_well(stack):
    await stack.until_ready()
    assert all(process.is_alive for process in stack.processes.values())
