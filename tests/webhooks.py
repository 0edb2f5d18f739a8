"""A tester's hands on webhooks: endpoints of every kind on this machine, and a notifier that runs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

import httpx

from services.notifier.__main__ import run
from services.notifier.client import Resolve, look_up
from shared.contract.events import ModelActivated
from shared.contract.identity import ModelRef
from shared.runtime.settings import NotifierSettings
from tests.databases import logged_in
from tests.stack import API_TOKEN, free_port, plain_client

#: Long enough for a busy machine, and never waited for when all is well.
PATIENCE_SECONDS: Final = 60


def activated(user_id: str, generation: int) -> ModelActivated:
    return ModelActivated(
        training_id=f"t-{user_id}-{generation}",
        user_id=user_id,
        generation=generation,
        ref=UUID(int=generation),
        model=ModelRef("acme", "flux", f"{generation:064x}"),
    )


@dataclass(frozen=True)
class Heard:
    """One request."""

    target: str
    headers: Mapping[str, str]
    body: bytes


#: What an endpoint does once it has read a request.
Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer at once."""
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *lines, "", ""])

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)
        await writer.drain()

    return behave


async def never(_: asyncio.StreamWriter) -> None:
    """Read the request, and never answer."""
    await asyncio.Event().wait()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection."""
    writer.transport.abort()


async def gigabyte(writer: asyncio.StreamWriter) -> None:
    """Answer with a body of a gigabyte."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
    for _ in range(1024):
        writer.write(bytes(1024 * 1024))
        await writer.drain()


async def gigabyte_of_headers(writer: asyncio.StreamWriter) -> None:
    """Answer with headers that never end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"y" * 64 * 1024 + b"\r\n")
        await writer.drain()


async def interim_without_end(writer: asyncio.StreamWriter) -> None:
    """Send one interim response after the other, and never the one that counts."""
    while True:
        writer.write(b"HTTP/1.1 100 \r\n\r\n" * 1000)
        await writer.drain()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a header byte by byte, faster than any time limit between two bytes."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(0.05)


@dataclass
class Endpoint:
    """An HTTP server that behaves as told."""

    behave: Behaviour = field(default_factory=lambda: answer(204))
    heard: list[Heard] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.2"
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        # A connection that the loop has just accepted would find the server closed, and stay open.
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What stays open fails a later test, when a garbage collection warns of it: a connection that came as the last
        # one, and one whose task is canceled before it begins, or while the client does not read.
        if not self._server.is_serving():
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(_header(line) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                async with self.changed:
                    self.heard.append(Heard(head[0].split()[1], headers, body))
                    self.changed.notify_all()
                await self.behave(writer)
        finally:
            writer.close()
            # For what is not sent yet.
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    async def until_heard(self, count: int) -> Sequence[Heard]:
        """Wait for *count* requests."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(lambda: len(self.heard) >= count)
        return self.heard


def _header(line: str) -> tuple[str, str]:
    name, _, text = line.partition(": ")
    return name.lower(), text


class Notifier:
    """A notifier that runs in this process, and a client of its API."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self.api = api

    async def add(self, url: str, *events: str) -> dict[str, Any]:
        body = {"url": url, "events": list(events or ("model.activated.v1",))}
        answer = await self.api.post("/webhook-endpoints", json=body)
        assert answer.status_code == 201, answer.text
        endpoint: dict[str, Any] = answer.json()
        return endpoint

    async def remove_all(self) -> None:
        for endpoint in (await self.api.get("/webhook-endpoints", params={"limit": "200"})).json()["items"]:
            (await self.api.delete(f"/webhook-endpoints/{endpoint['id']}")).raise_for_status()

    async def endpoint(self, endpoint_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api.get(f"/webhook-endpoints/{endpoint_id}")).raise_for_status().json()
        return found

    async def deliveries(self, endpoint_id: str, **query: str) -> list[dict[str, Any]]:
        """The newest deliveries first."""
        answer = await self.api.get(f"/webhook-endpoints/{endpoint_id}/deliveries", params={"limit": "200", **query})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        return found

    async def until(self, endpoint_id: str, is_so: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Wait until the endpoint has deliveries, which are as wanted."""
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not ((found := await self.deliveries(endpoint_id)) and is_so(found)):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the deliveries are {found}") from None
        return found


@contextlib.asynccontextmanager
async def running_notifier(
    amqp_url: str, database_url: str, *, resolve: Resolve = look_up, **settings: str
) -> AsyncIterator[Notifier]:
    """A notifier with short delays that may call this machine."""
    port = free_port()
    environment = {
        "MODELSWAP_AMQP_URL": amqp_url,
        "MODELSWAP_DATABASE_URL": logged_in(database_url, "notifier"),
        "MODELSWAP_API_TOKENS": API_TOKEN,
        "MODELSWAP_NOTIFIER_PORT": str(port),
        "MODELSWAP_WEBHOOK_MASTER_SECRETS": "a-master-secret-for-tests",
        "MODELSWAP_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "MODELSWAP_DRAIN_SECONDS": "1",
        **{f"MODELSWAP_{name}": text for name, text in settings.items()},
    }
    stopping = asyncio.Event()
    running = asyncio.create_task(run(NotifierSettings.load(environment), stopping, resolve=resolve))
    base = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    try:
        async with plain_client(base_url=f"{base}/v1", headers=headers) as api:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not running.done():
                    with contextlib.suppress(httpx.TransportError):
                        if (await api.get(f"{base}/readyz")).is_success:
                            break
                    await asyncio.sleep(0.02)
            assert not running.done(), running
            yield Notifier(api)
    finally:
        stopping.set()
        await running
