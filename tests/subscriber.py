"""modelswap as its subscribers see it: the one in memory that they test with, and a real RabbitMQ with an API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import aiormq
from aiormq import spec

from modelswap_events import Change, Event, ModelActivated, Models, ModelWithdrawn, Subscription, subscribe
from modelswap_events.change import change_in
from modelswap_events.testing import FakeModelswap
from shared.contract.envelope import wrap
from shared.contract.identity import ModelRef
from shared.contract.topology import EVENTS_LOG, topology
from shared.runtime.broker import declare
from shared.runtime.clock import now
from tests.broker import Broker
from tests.proxy import Proxy, proxied

DELIVERY_LIMIT: Final = 2
TOKEN: Final = "token-of-the-product"
NAME: Final = "test"
#: What each snapshot says to ask the next one for.
SINCE: Final = "2026-11-28T11:55:00Z"
_PAGE_SIZE: Final = 2
_PATIENCE_SECONDS: Final = 60


def activated(user: str, generation: int) -> ModelActivated:
    """The event that *user* has the model of that generation."""
    model = ModelRef.parse(f"acme/{user}:{generation:064x}")
    assert model is not None
    return ModelActivated(training_id=f"t{generation}", user_id=user, generation=generation, ref=uuid4(), model=model)


def withdrawn(user: str, generation: int) -> ModelWithdrawn:
    previous = activated(user, generation - 1).model
    return ModelWithdrawn(
        training_id=f"t{generation}", user_id=user, generation=generation, ref=uuid4(), previous=previous
    )


class Modelswap(Protocol):
    """What a test does with either."""

    def models(self) -> Models: ...

    def subscribe(self, *events: type[Event], since: datetime | None = None) -> Subscription: ...

    def commit(self, event: Event) -> None:
        """Only the snapshot tells of it."""

    async def publish(self, event: Event) -> None:
        """Only a message tells of it."""

    async def publish_raw(self, headers: Mapping[str, str], body: bytes) -> None: ...

    async def overflow(self, length: int) -> list[str]:
        """The ids in the overflow queue, once it has so many."""

    async def remove(self) -> None: ...

    async def add(self) -> None: ...

    def away(self) -> contextlib.AbstractAsyncContextManager[None]: ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self._fake = FakeModelswap(delivery_limit=DELIVERY_LIMIT)
        self._fake.add_subscription()

    def models(self) -> Models:
        return Models("", "", "", subscription=NAME, network=self._fake)

    def subscribe(self, *events: type[Event], since: datetime | None = None) -> Subscription:
        return subscribe("", subscription=NAME, events=events, since=since, network=self._fake)

    def commit(self, event: Event) -> None:
        self._fake.commit(event)

    async def publish(self, event: Event) -> None:
        self._fake.publish(event)

    async def publish_raw(self, headers: Mapping[str, str], body: bytes) -> None:
        self._fake.publish_raw(headers, body)

    async def overflow(self, length: int) -> list[str]:
        found = self._fake.overflow()
        assert len(found) == length
        return found

    async def remove(self) -> None:
        self._fake.remove_subscription()

    async def add(self) -> None:
        self._fake.add_subscription()

    def away(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._fake.away()


class OnRabbitMQ:
    """A subscription on a real broker, and an API with the snapshot; both behind proxies."""

    def __init__(self, broker: Broker, channel: aiormq.Channel, amqp: Proxy, api: SnapshotApi) -> None:
        self._broker = broker
        self._channel = channel
        self._amqp = amqp
        self._api = api
        self._name = f"{NAME}-{uuid4().hex[:8]}"
        self._queue = f"modelswap.subscription.{self._name}"
        self._exists = False

    def models(self) -> Models:
        return Models(self._url, self._api.url, TOKEN, subscription=self._name, refresh=timedelta(minutes=5))

    def subscribe(self, *events: type[Event], since: datetime | None = None) -> Subscription:
        return subscribe(self._url, subscription=self._name, events=events, since=since)

    @property
    def asked(self) -> list[dict[str, str]]:
        """The parameters of each page that the API answered."""
        return self._api.asked

    @property
    def _url(self) -> str:
        return self._amqp.url(self._broker.url)

    def commit(self, event: Event) -> None:
        change = change_in(wrap(event, source="test", now=now()))
        assert change is not None
        self._api.changes[change.user_id] = change

    async def publish(self, event: Event) -> None:
        envelope = wrap(event, source="test", now=now())
        await self.publish_raw(envelope.headers(), envelope.body())

    async def publish_raw(self, headers: Mapping[str, str], body: bytes) -> None:
        properties = spec.Basic.Properties(headers=dict(headers), content_type="application/json", delivery_mode=2)
        for queue in (EVENTS_LOG, *([self._queue] if self._exists else [])):
            await self._channel.basic_publish(body, routing_key=queue, properties=properties)

    async def overflow(self, length: int) -> list[str]:
        overflow = f"{self._queue}.overflow"
        await self._broker.until(overflow, length)
        return [(await self._broker.get(overflow)).headers["ce-id"] for _ in range(length)]

    async def remove(self) -> None:
        self._exists = False
        await self._channel.queue_delete(self._queue)

    async def make_log_anew(self) -> None:
        await self._channel.queue_delete(EVENTS_LOG)
        await declare(self._channel, topology().log)

    async def add(self) -> None:
        overflow = f"{self._queue}.overflow"
        await self._channel.queue_declare(overflow, durable=True, arguments={"x-queue-type": "quorum"})
        arguments: dict[str, str | int] = {
            "x-queue-type": "quorum",
            "x-overflow": "drop-head",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": overflow,
        }
        await self._channel.queue_declare(self._queue, durable=True, arguments={**arguments})
        self._exists = True

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        servers, self._amqp.servers, self._api.is_broken = self._amqp.servers, [], True
        self._amqp.cut()
        yield
        self._amqp.servers, self._api.is_broken = servers, False

    async def tidy_up(self) -> None:
        for queue in (self._queue, f"{self._queue}.overflow"):
            await self._channel.queue_delete(queue)


class SnapshotApi:
    """`GET /v1/models`, in pages of two, over a connection for each; or 500 for everything."""

    def __init__(self) -> None:
        self.url = ""
        self.is_broken = False
        self.changes: dict[str, Change] = {}
        self.asked: list[dict[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = urlsplit(head.split()[1])
            query = {name: values[0] for name, values in parse_qs(target.query).items()}
            if not self.is_broken:
                self.asked.append(query)
            assert target.path == "/v1/models"
            assert f"Authorization: Bearer {TOKEN}\r\n" in head
            begin = int(query.get("cursor", 0))
            shown = [item_of(change) for change in self.changes.values()]
            more = str(begin + _PAGE_SIZE) if begin + _PAGE_SIZE < len(shown) else None
            items = shown[begin : begin + _PAGE_SIZE]
            page = {"items": items, "next_cursor": more, "next_updated_since": SINCE}
            body = json.dumps(page).encode()
            status = "500 Internal Server Error" if self.is_broken else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()


def item_of(change: Change) -> dict[str, Any]:
    """As state answers it."""
    item = {"user_id": change.user_id, "generation": change.generation, "updated_at": "2026-11-28T12:00:00Z"}
    if change.model is None:
        return {**item, "withdrawn": True}
    return {**item, "model": {"reference": str(change.model), "trigger_word": change.trigger_word, "owner": "acme"}}


@contextlib.asynccontextmanager
async def on_rabbitmq(amqp_url: str) -> AsyncIterator[OnRabbitMQ]:
    """A new subscription on the broker at *amqp_url*."""
    broker, api = Broker(amqp_url), SnapshotApi()
    async with (
        broker.channel() as channel,
        proxied(amqp_url) as amqp,
        await asyncio.start_server(api.serve, "127.0.0.1", 0) as server,
    ):
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await declare(channel, topology().log)
        modelswap = OnRabbitMQ(broker, channel, amqp, api)
        await modelswap.add()
        try:
            yield modelswap
        finally:
            await modelswap.tidy_up()


async def first(changes: AsyncIterator[Change], count: int) -> list[tuple[str, int]]:
    """The next *count* changes: each user and generation."""
    found = []
    async with asyncio.timeout(_PATIENCE_SECONDS):
        for _ in range(count):
            change = await anext(changes)
            found.append((change.user_id, change.generation))
    return found


def told(changes: Sequence[Change]) -> list[tuple[str, int]]:
    return [(change.user_id, change.generation) for change in changes]
