"""What can be broken in a stack, and mended. Which alerts must fire then: `tests/alerts.py`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import uuid4

import httpx

from deploy.local import Servers
from services.simulator.faults import ApiFaultOrder, FaultOrder, WebhookEvent
from services.simulator.simulator import Simulator
from shared.contract.events import EVENTS_EXCHANGE, ModelActivated, TrainingProgressed
from shared.contract.topology import EVENTS_LOG, PROGRESS_QUEUE, topology
from shared.runtime.broker import declare_log
from tests.end_to_end.test_walk import post_webhook, start
from tests.erlang import evaluate
from tests.stack import API_TOKEN, Process, Stack, plain_client
from tests.state import connected
from tests.webhooks import Endpoint, answer

_LOAD_SECONDS: Final = 60
_AT_ONCE: Final = 8
#: Of a training: a minute of logs.
_LONG_SECONDS: Final = 18_000
#: One in each second: Prometheus sees them rise.
_REQUESTS: Final = 20
#: After ten seconds without an answer, a request is given up.
_SLOW_SECONDS: Final = 8
#: An output whose version the parser does not find.
_UNREADABLE: Final = {"trained_version": "$destination:$version"}
#: Larger than any event, smaller than the webhook of the test.
_SMALL_BYTES: Final = 16 * 1024
#: A few more than the alert allows in ten minutes.
_REFUSED: Final = 1200
#: A training that is overdue is found soon, and the extractor is soon busy.
SETTINGS: Final = {
    "MODELSWAP_EXTRACTOR_CONCURRENCY": "2",
    "MODELSWAP_RETRY_DELAYS": "100ms,200ms,400ms,400ms,500ms,500ms,500ms,500ms",
    "MODELSWAP_RECONCILE_AFTER_SECONDS": "20",
    "MODELSWAP_RECONCILE_EVERY_SECONDS": "1",
    "MODELSWAP_RECONCILE_CALLS_PER_MINUTE": "3000",
}


@dataclass(frozen=True)
class Broken:
    """A stack, and all that can be broken of it."""

    stack: Stack
    simulator: Simulator
    servers: Servers
    #: Where RabbitMQ serves its metrics.
    rabbitmq_port: int

    @property
    def owner_url(self) -> str:
        """The database, as the owner of its tables."""
        return self.stack.environment["MODELSWAP_DATABASE_URL"]

    def notifier(self) -> httpx.AsyncClient:
        """The notifier's API, as the product."""
        return plain_client(base_url=self.stack.url("notifier"), headers={"Authorization": f"Bearer {API_TOKEN}"})

    def limit_messages(self, size_bytes: int) -> None:
        """Have RabbitMQ refuse larger messages, on new connections."""
        node = self.servers.rabbitmq
        evaluate(node, f"application:set_env(rabbit, max_message_size, {size_bytes})")
        evaluate(node, f"persistent_term:put(max_message_size, {size_bytes})")
        evaluate(node, '[rabbit_networking:close_connection(C, <<"limit">>) || C <- rabbit_networking:connections()]')

    async def replace_extractor(self, by: Process) -> None:
        """Run another one in its place."""
        self.stack.processes["extractor"].kill()
        self.stack.processes["extractor"] = by
        by.start()
        await self.stack.until_ready("extractor")

    async def train(self, count: int = 1) -> list[str]:
        """Start so many trainings, each of a new user."""
        begun = [await start(self.stack, f"user-{uuid4().hex[:8]}") for _ in range(count)]
        return [each["training_id"] for each in begun]

    async def train_to_the_end(self, count: int) -> None:
        for training in await self.train(count):
            await self.stack.until_stage(training, "active")


#: While it is entered, something is broken.
Case: TypeAlias = Callable[[Broken], contextlib.AbstractAsyncContextManager[None]]


def case(breaks: Callable[[Broken], AsyncGenerator[None]]) -> Case:
    """Make a case of what breaks something, yields, and mends it. It is mended after a failure, too."""

    @functools.wraps(breaks)
    @contextlib.asynccontextmanager
    async def entered(broken: Broken) -> AsyncIterator[None]:
        steps = breaks(broken)
        await anext(steps)
        try:
            yield
        finally:
            await anext(steps, None)

    return entered


@case
async def dead_process(broken: Broken) -> AsyncGenerator[None]:
    """The extractor is killed."""
    broken.stack.processes["extractor"].kill()
    yield
    broken.stack.processes["extractor"].start()


@case
async def broker_down(broken: Broken) -> AsyncGenerator[None]:
    """RabbitMQ is killed."""
    broken.servers.rabbitmq.kill()
    yield
    await asyncio.to_thread(broken.servers.rabbitmq.start)


@case
async def database_down(broken: Broken) -> AsyncGenerator[None]:
    """Postgres is killed."""
    await broken.train(3)
    broken.servers.postgres.kill()
    yield
    await asyncio.to_thread(broken.servers.postgres.start)


@case
async def disk_full(broken: Broken) -> AsyncGenerator[None]:
    """RabbitMQ's disk is full."""
    await broken.train(3)
    evaluate(broken.servers.rabbitmq, 'rabbit_disk_monitor:set_disk_free_limit("1000TB")')
    yield
    evaluate(broken.servers.rabbitmq, 'rabbit_disk_monitor:set_disk_free_limit("50MB")')


@case
async def webhooks_dropped(broken: Broken) -> AsyncGenerator[None]:
    """Replicate's webhooks do not come."""
    broken.simulator.order(FaultOrder(drop=frozenset(WebhookEvent), next=6))
    await broken.train(6)
    yield


@case
async def wrong_secret(broken: Broken) -> AsyncGenerator[None]:
    """Replicate signs with another secret."""
    broken.simulator.order(FaultOrder(bad_signature=True, next=6))
    await broken.train(6)
    yield


@case
async def replicate_5xx(broken: Broken) -> AsyncGenerator[None]:
    """Replicate answers 503."""
    orders = broken.simulator.world.orders
    orders.add_for_calls(ApiFaultOrder(route="versions.get", status=503, next=1_000_000))
    await broken.train(3)
    orders.add_for_calls(ApiFaultOrder(route="trainings.create", status=503, next=1_000_000))
    # The extractor's circuit breaker asks seldom; a product goes on.
    for _ in range(_REQUESTS):
        with contextlib.suppress(AssertionError):
            await broken.train()
        await asyncio.sleep(1)
    yield
    orders.clear()


@case
async def parser_bug(broken: Broken) -> AsyncGenerator[None]:
    """The parser has a bug: it finds no model in any output."""
    extractor = broken.stack.processes["extractor"]
    await broken.replace_extractor(extractor.with_module("tests.end_to_end.broken_extractor"))
    await broken.train(6)
    yield
    await broken.replace_extractor(extractor)


@case
async def nothing(broken: Broken) -> AsyncGenerator[None]:
    """Nothing: a healthy stack under load."""
    ends = time.monotonic() + _LOAD_SECONDS

    async def follow() -> None:
        while time.monotonic() < ends:
            await broken.train_to_the_end(1)

    await asyncio.gather(*(follow() for _ in range(_AT_ONCE)))
    yield


@case
async def dead_letter_unstorable(broken: Broken) -> AsyncGenerator[None]:
    """Postgres refuses to store a dead letter."""
    async with connected(broken.owner_url) as database:
        await database.execute("ALTER TABLE ops.letters ADD CONSTRAINT broken CHECK (false) NOT VALID")
        broken.simulator.order(FaultOrder(output=_UNREADABLE))
        await broken.train()
        yield
        await database.execute("ALTER TABLE ops.letters DROP CONSTRAINT broken")


@case
async def progress_unroutable(broken: Broken) -> AsyncGenerator[None]:
    """The binding of the progress queue is removed."""
    broken.simulator.order(FaultOrder(duration_seconds=_LONG_SECONDS))
    async with broken.stack.broker.channel() as channel:
        binding = (PROGRESS_QUEUE, TrainingProgressed.exchange, TrainingProgressed.key)
        await channel.queue_unbind(*binding)
        await broken.train()
        yield
        await channel.queue_bind(*binding)


@case
async def event_too_large(broken: Broken) -> AsyncGenerator[None]:
    """A committed event is too large for RabbitMQ."""
    await broken.train_to_the_end(1)
    async with connected(broken.owner_url) as database:
        await database.execute(
            "INSERT INTO state.outbox"
            " (event_id, user_id, generation, training_id, exchange, routing_key, headers, body)"
            " SELECT 'broken', user_id, generation, training_id, exchange, routing_key,"
            "  (headers::jsonb || jsonb_build_object('tracestate', repeat('x', 1000000)))::json, body"
            " FROM state.outbox LIMIT 1"
        )
        yield
        await database.execute("UPDATE state.outbox SET published_at = now() WHERE event_id = 'broken'")


@case
async def events_log_made_anew(broken: Broken) -> AsyncGenerator[None]:
    """The events log is deleted, and made anew with other limits."""
    await broken.train_to_the_end(1)
    async with broken.stack.broker.channel() as channel, broken.stack.broker.link() as link:
        await channel.queue_delete(EVENTS_LOG)
        await channel.queue_declare(EVENTS_LOG, durable=True, arguments={"x-queue-type": "stream", "x-max-age": "1h"})
        await declare_log(link, topology())  # its bindings; its limits stay
        await broken.train_to_the_end(1)
        yield
        await channel.queue_delete(EVENTS_LOG)
        await declare_log(link, topology())


@case
async def endpoint_gone(broken: Broken) -> AsyncGenerator[None]:
    """A webhook endpoint answers 410."""
    async with Endpoint(answer(410)) as endpoint, broken.notifier() as notifier:
        wanted = {"url": endpoint.url, "events": [ModelActivated.key]}
        added = await notifier.post("/v1/webhook-endpoints", json=wanted)
        await broken.train_to_the_end(1)
        yield
        await notifier.delete(f"/v1/webhook-endpoints/{added.json()['id']}")


@case
async def subscribers_queue_full(broken: Broken) -> AsyncGenerator[None]:
    """A subscriber's own queue is full, and rejects events."""
    async with broken.stack.broker.subscribed(
        EVENTS_EXCHANGE, ModelActivated.key, max_length=0, overflow="reject-publish"
    ):
        await broken.train_to_the_end(1)
        yield


@case
async def subscriber_away(broken: Broken) -> AsyncGenerator[None]:
    """A subscriber does not run, and its queue is full."""
    subscription = {"events": [ModelActivated.key], "max_length": 1, "reason": "a test"}
    added = await broken.stack.ops.put("/v1/subscriptions/away", json=subscription)
    assert added.is_success, added.text
    await broken.train_to_the_end(3)
    yield
    await broken.stack.ops.delete("/v1/subscriptions/away", params={"reason": "a test"})


@case
async def webhook_too_large(broken: Broken) -> AsyncGenerator[None]:
    """A webhook fits into no message."""
    broken.limit_messages(_SMALL_BYTES)
    await broken.stack.until_ready()
    body = json.dumps({"id": "unknown", "status": "never seen", "logs": "x" * 2 * _SMALL_BYTES})
    await post_webhook(broken.stack, body.encode(), "msg-too-large")
    yield
    broken.limit_messages(128 * 1024 * 1024)


@case
async def flood(broken: Broken) -> AsyncGenerator[None]:
    """A client sends 1,200 requests that are not HTTP."""
    for _ in range(_REFUSED):
        _, writer = await asyncio.open_connection("127.0.0.1", broken.stack.ports["receiver"])
        writer.write(b"neither HTTP nor TLS\r\n\r\n")
        await writer.drain()
        writer.close()
    yield


@case
async def replicate_slow(broken: Broken) -> AsyncGenerator[None]:
    """Replicate takes eight seconds for an answer, and the extractor handles two trainings at a time."""
    orders = broken.simulator.world.orders
    orders.add_for_calls(ApiFaultOrder(route="versions.get", delay_seconds=_SLOW_SECONDS, next=1_000_000))
    await broken.train(8)
    yield
    orders.clear()


@case
async def dead_letter_forgotten(broken: Broken) -> AsyncGenerator[None]:
    """A dead letter is open for two days."""
    broken.simulator.order(FaultOrder(output=_UNREADABLE))
    (training,) = await broken.train()
    await broken.stack.dead_letter(training)
    async with connected(broken.owner_url) as database:
        await database.execute(
            "UPDATE ops.letters SET archived_at = archived_at - interval '2 days' WHERE training_id = $1", training
        )
        yield
        await database.execute("UPDATE ops.letters SET status = 'dropped' WHERE status = 'open'")


@case
async def reconciler_without_a_right(broken: Broken) -> AsyncGenerator[None]:
    """Postgres does not let ops note a round of the reconciler."""
    async with connected(broken.owner_url) as database:
        await database.execute("REVOKE UPDATE ON ops.reconciliation FROM modelswap_ops")
        yield
        await database.execute("GRANT UPDATE ON ops.reconciliation TO modelswap_ops")


@case
async def model_lost(broken: Broken) -> AsyncGenerator[None]:
    """A superuser of Postgres deletes a user's model."""
    (training,) = await broken.train()
    user = (await broken.stack.until_stage(training, "active"))["user_id"]
    model = await broken.stack.model(user)
    assert model is not None
    async with connected(broken.stack.database_url) as database:
        await database.execute("SET session_replication_role = replica")  # no trigger refuses it
        await database.execute("DELETE FROM state.user_models WHERE user_id = $1", user)
    yield
    order = {"to": model["reference"], "reason": "it was lost"}
    answer = await broken.stack.api.post(f"/v1/users/{user}/model/rollback", json=order)
    assert answer.is_success, answer.text
