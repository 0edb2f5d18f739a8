"""What does a client of our HTTP server get, and what does it cost? The protocol is fed by hand; time is told to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.server import ServerState

from shared.runtime.connections import Limits
from shared.runtime.refusals import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URL_BYTES
from shared.runtime.server import BoundedProtocol, Server

PUBLIC = "203.0.113.7"
HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
#: More than uvloop reads at once.
MUCH = 300_000


class Wire(asyncio.Transport):
    """A client's end of a connection."""

    def __init__(self, protocol: BoundedProtocol, host: str) -> None:
        super().__init__({"peername": (host, 40000), "sockname": ("127.0.0.1", 80)})
        self._protocol = protocol
        self.sent = b""
        self.unsent_bytes = 0
        self.is_half_closed = False
        self.is_closed = False
        self.is_paused = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def write_eof(self) -> None:
        self.is_half_closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
        self.is_closed = True

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Client:
    """One connection, as its client sees it."""

    def __init__(self, protocol: BoundedProtocol, host: str) -> None:
        self.protocol = protocol
        self.wire = Wire(protocol, host)
        protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        if not self.is_gone:
            self.protocol.data_received(data)

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Send *data*, and return the answer's status and body."""
        self.wire.sent = b""
        self.send(data)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(60):
            while b"\r\n\r\n" not in self.wire.sent:
                await asyncio.sleep(0)
        head, _, body = self.wire.sent.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    @property
    def is_gone(self) -> bool:
        return self.wire.is_closed

    def is_open(self) -> bool:
        return not (self.wire.is_closed or self.wire.is_half_closed)


class Serving:
    """A server without sockets, whose application says what it saw."""

    def __init__(self, **limits: Any) -> None:
        self.seen: list[Any] = []
        self.clients: list[Client] = []
        self.go_on = asyncio.Event()
        app = Starlette(
            routes=[
                Route("/livez", lambda _: PlainTextResponse("well")),
                Route("/echo", self._echo, methods=["POST"]),
                Route("/slow", self._slow),
            ]
        )
        self.server = Server(app, limits=Limits(**limits))
        self.server.config.load()
        self._state = ServerState()

    def connect(self, host: str = "127.0.0.1") -> Client:
        protocol = self.server.config.http_protocol_class(
            config=self.server.config,  # type: ignore[call-arg]
            server_state=self._state,
            app_state={},
            _loop=asyncio.get_running_loop(),
        )
        assert isinstance(protocol, BoundedProtocol)
        self.clients.append(Client(protocol, host))
        return self.clients[-1]

    def pass_time(self, seconds: float) -> None:
        """As if it were so much later than it is."""
        self.server.connections.expire(asyncio.get_running_loop().time() + seconds)

    async def stop(self) -> None:
        """Every client hangs up, and what was begun for it ends."""
        for client in self.clients:
            client.wire.abort()
        self.go_on.set()
        await until(lambda: not self._state.tasks)

    async def _echo(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            self.seen.append("gone")
            raise
        self.seen.append(body)
        return JSONResponse({"bytes": len(body), "headers": [name for name, _ in request.headers.items()]})

    async def _slow(self, _: Request) -> Response:
        await self.go_on.wait()
        return PlainTextResponse("at last")


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Serving]]:
    """Start a server with these limits."""
    made: list[Serving] = []

    def serve(**limits: Any) -> Serving:
        made.append(Serving(**limits))
        return made[-1]

    yield serve
    for serving in made:
        await serving.stop()


@pytest.fixture
def serving(serve: Callable[..., Serving]) -> Serving:
    return serve()


def problem(body: bytes) -> str:
    said: dict[str, Any] = json.loads(body)
    assert said["type"] == f"urn:modelswap:problem:{said['title']}"
    return str(said["title"])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_an_ordinary_request_is_answered_and_the_connection_kept(serving):
    client = serving.connect()

    first = await client.ask(HEAD + b"Content-Length: 5\r\n\r\nhello")
    second = await client.ask(GET)

    assert json.loads(first[1])["bytes"] == 5
    assert second == (200, b"well")
    assert client.is_open()


@pytest.mark.parametrize(
    ("status", "kind", "begin", "more"),
    [
        (431, "headers-too-large", HEAD + b"A: ", b"a" * 1000),
        (431, "headers-too-large", HEAD, b"a: b\r\n" * 10),
        (431, "headers-too-large", HEAD + b"a", b"a" * 1000),
        (414, "uri-too-long", b"GET /", b"a" * 1000),
        (431, "headers-too-large", CHUNKED + b"5\r\nhello\r\n0\r\n", b"t: trailer\r\n" * 10),
        (431, "headers-too-large", CHUNKED + b"5\r\nhello\r\n0\r\nt: ", b"a" * 1000),
        (431, "headers-too-large", CHUNKED + b"5;", b"extension" * 100),
        (431, "headers-too-large", CHUNKED, b"1;extension-extension\r\na\r\n" * 10),
    ],
    ids=["value", "count", "name", "url", "trailers", "trailer", "chunk extension", "chunk extensions"],
)
async def test_what_has_no_end_is_refused_before_it_is_kept(serving, status, kind, begin, more):
    at_once, in_pieces = serving.connect(), serving.connect()

    at_once.send(begin + more * (MUCH // len(more)))
    in_pieces.send(begin)
    for _ in range(MUCH // len(more)):
        in_pieces.send(more)

    for client in (at_once, in_pieces):
        answered, body = await client.answer()
        assert (answered, problem(body)) == (status, kind)
        assert client.wire.is_half_closed


async def test_heads_up_to_the_limit_are_taken_and_larger_ones_refused(serving):
    def head(size: int) -> bytes:
        return b"GET /livez HTTP/1.1\r\nHost: a\r\nfill: " + b"a" * (size - len("Hostafill")) + b"\r\n\r\n"

    assert (await serving.connect().ask(head(MAX_HEAD_BYTES - 100)))[0] == 200
    assert (await serving.connect().ask(head(MAX_HEAD_BYTES + 1)))[0] == 431


async def test_a_large_head_is_refused_even_beside_a_larger_body(serving):
    """A body in the same piece is no excuse."""
    head = HEAD + b"fill: " + b"a" * MAX_HEAD_BYTES + b"\r\nContent-Length: 100000\r\n\r\n"

    assert (await serving.connect().ask(head + b"b" * 100_000))[0] == 431


@pytest.mark.parametrize(("count", "status"), [(MAX_HEADERS - 1, 200), (MAX_HEADERS, 431)])
async def test_so_many_headers_are_taken(serving, count, status):
    asked = b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * count + b"\r\n"

    assert (await serving.connect().ask(asked))[0] == status


@pytest.mark.parametrize(("size", "status"), [(MAX_URL_BYTES, 200), (MAX_URL_BYTES + 1, 414)])
async def test_so_long_an_address_is_taken(serving, size, status):
    url = b"/livez?" + b"a" * (size - len("/livez?"))

    assert (await serving.connect().ask(b"GET " + url + b" HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == status


async def test_a_trailer_is_no_header(serving):
    client = serving.connect()

    _, body = await client.ask(CHUNKED + b"5\r\nhello\r\n0\r\nwebhook-signature: v1,forged\r\n\r\n")

    assert json.loads(body) == {"bytes": 5, "headers": ["host", "transfer-encoding"]}
    assert (await client.ask(GET))[0] == 200


async def test_a_large_body_in_chunks_is_taken(serving):
    client = serving.connect()

    client.send(CHUNKED)
    for _ in range(100):
        client.send(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        await asyncio.sleep(0)

    assert json.loads((await client.ask(b"0\r\n\r\n"))[1])["bytes"] == 1_000_000


async def test_chunks_of_one_byte_are_refused_where_there_are_many(serving):
    client = serving.connect()

    client.send(CHUNKED + b"1\r\na\r\n" * 1000)
    assert client.is_open()
    client.send(b"1\r\na\r\n" * 10_000)

    assert (await client.answer())[0] == 431
    await until(lambda: serving.seen == ["gone"])


async def test_empty_lines_without_end_are_refused(serving):
    client = serving.connect()

    client.send(b"\r\n" * MUCH)

    assert client.is_gone


async def test_a_few_pipelined_requests_are_answered_and_many_closed(serving):
    few, many = serving.connect(), serving.connect()

    few.send(GET * 5)
    many.send(GET * 10_000)

    await until(lambda: few.wire.sent.count(b"200 OK") == 5)
    assert few.is_open()
    assert many.is_gone


async def test_what_is_no_request_is_a_problem(serving):
    status, body = await serving.connect().ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")

    assert (status, problem(body)) == (400, "bad-request")


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_a_request_to_upgrade_is_answered_like_any_other(serving, upgrade):
    client = serving.connect()
    asked = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"

    assert await client.ask(asked) == (200, b"well")
    assert await client.ask(GET) == (200, b"well")


async def test_an_old_client_is_answered_and_let_go(serving):
    client = serving.connect()

    assert await client.ask(b"GET /livez HTTP/1.0\r\n\r\n") == (200, b"well")
    assert client.is_gone


async def test_a_client_that_expects_it_is_told_to_go_on(serving):
    client = serving.connect()

    told, _ = await client.ask(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    answered, _ = await client.ask(b"hello")

    assert (told, answered) == (100, 200)


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
async def test_a_silent_client_is_let_go(serving, sent):
    client = serving.connect()
    client.send(sent)

    serving.pass_time(9)
    assert client.is_open()
    serving.pass_time(11)

    assert client.is_gone


async def test_a_head_that_trickles_in_is_refused_in_time(serving):
    client = serving.connect()
    client.send(HEAD)

    serving.pass_time(9)
    assert client.is_open()
    client.send(b"still: here\r\n")
    serving.pass_time(11)

    status, body = await client.answer()
    assert (status, problem(body)) == (408, "request-timeout")
    serving.pass_time(2)
    assert client.is_gone


async def test_a_body_that_trickles_in_is_refused_in_time(serving):
    client = serving.connect()
    client.send(HEAD + b"Content-Length: 50\r\n\r\nhello")

    serving.pass_time(29)
    assert client.is_open()
    client.send(b"still here")
    serving.pass_time(31)

    assert (await client.answer())[0] == 408
    await until(lambda: serving.seen == ["gone"])


async def test_a_body_nobody_waits_for_ends_in_time_as_well(serving):
    client = serving.connect()
    assert (await client.ask(b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n"))[0] == 404

    serving.pass_time(31)

    assert not client.is_open()


async def test_the_next_request_has_a_deadline_too(serving):
    client = serving.connect()
    await client.ask(GET)

    client.send(b"GET")
    serving.pass_time(11)

    assert (await client.answer())[0] == 200
    assert not client.is_open()


async def test_an_idle_connection_is_kept_as_long_as_proxies_keep_it(serving):
    client = serving.connect()
    await client.ask(GET)

    serving.pass_time(74)
    assert client.is_open()
    serving.pass_time(76)

    assert client.is_gone


async def test_an_answer_may_take_as_long_as_it_takes(serving):
    client = serving.connect()
    client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0)

    serving.pass_time(100_000)
    assert client.is_open()
    serving.go_on.set()

    assert await client.answer() == (200, b"at last")


async def test_who_does_not_take_the_answer_is_let_go(serving):
    client = serving.connect()
    client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0)

    client.protocol.pause_writing()
    serving.pass_time(59)
    client.protocol.resume_writing()
    serving.pass_time(100_000)
    assert client.is_open()
    client.protocol.pause_writing()
    serving.pass_time(61)

    assert client.is_gone


async def test_a_further_request_does_not_excuse_an_answer_not_taken(serving):
    client = serving.connect()
    client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0)

    client.protocol.pause_writing()
    client.send(GET)
    serving.pass_time(61)

    assert client.is_gone


async def test_a_full_server_closes_the_connection_that_waits_longest(serve):
    serving = serve(connections=3, requests=2)
    silent = [serving.connect() for _ in range(3)]

    honest = serving.connect()

    assert await honest.ask(GET) == (200, b"well")
    assert [client.is_gone for client in silent] == [True, False, False]


async def test_a_server_full_of_requests_refuses_connections(serve):
    serving = serve(connections=2, requests=2)
    for _ in range(2):
        serving.connect().send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")

    status, body = await serving.connect().answer()

    assert (status, problem(body)) == (503, "too-many-connections")


async def test_an_overloaded_server_answers_only_health_checks(serve):
    serving = serve(connections=10, requests=3)
    working = [serving.connect() for _ in range(3)]
    for client in working:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")

    refused = serving.connect()
    status, body = await refused.ask(HEAD + b"Content-Length: 5\r\n\r\nhello")

    assert (status, problem(body)) == (503, "overloaded")
    assert b"\r\nretry-after: 5\r\n" in refused.wire.sent
    assert await serving.connect().ask(GET) == (200, b"well")
    serving.go_on.set()
    assert [await client.answer() for client in working] == [(200, b"at last")] * 3
    assert await serving.connect().ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") == (200, b"at last")


async def test_slow_bodies_do_not_keep_a_server_busy(serve):
    serving = serve(connections=10, requests=3)
    for _ in range(5):
        serving.connect().send(HEAD + b"Content-Length: 50\r\n\r\nhello")
    await asyncio.sleep(0)

    assert (await serving.connect().ask(HEAD + b"Content-Length: 5\r\n\r\nhello"))[0] == 200


async def test_bodies_together_are_bounded_and_the_oldest_gives_way(serve):
    serving = serve(held_bytes=1_000_000)
    clients = [serving.connect() for _ in range(4)]
    for client in clients:
        client.send(HEAD + b"Content-Length: 300000\r\n\r\n")
        client.send(b"a" * 299_999)
        await asyncio.sleep(0)

    assert [client.is_gone for client in clients] == [True, False, False, False]
    assert json.loads((await clients[3].ask(b"a"))[1])["bytes"] == 300_000
    await until(lambda: serving.seen[0] == "gone")


async def test_a_public_address_has_a_limit_of_its_own(serve):
    serving = serve(connections_per_address=2)
    first, _ = (serving.connect(PUBLIC) for _ in range(2))

    status, body = await serving.connect(PUBLIC).answer()

    assert (status, problem(body)) == (503, "too-many-connections")
    assert await serving.connect("203.0.113.8").ask(GET) == (200, b"well")
    first.wire.close()
    await asyncio.sleep(0)
    assert await serving.connect(PUBLIC).ask(GET) == (200, b"well")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1", "::ffff:192.168.1.1", "fe80::1%eth0"])
async def test_a_proxy_in_a_private_network_has_no_limit_of_its_own(serve, host):
    serving = serve(connections_per_address=2)

    clients = [serving.connect(host) for _ in range(5)]

    assert all(client.is_open() for client in clients)


async def test_all_addresses_of_an_ipv6_network_are_one_client(serve):
    serving = serve(connections_per_address=2)
    for last in "12":
        serving.connect(f"2001:db8::{last}")

    assert (await serving.connect("2001:db8::3").answer())[0] == 503
    assert serving.connect("2001:db8:0:1::3").is_open()
