"""Subscriptions on a real RabbitMQ of every series: what their users may do, and that a full one delays nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import aiormq
import httpx
import pytest

from modelswap_events import Refused, subscribe
from modelswap_events.broker import RabbitLink
from modelswap_events.ports import NEXT
from services.ops.api import create_api
from services.ops.subscriptions.api import subscription_router
from services.ops.subscriptions.client import Subscriptions
from shared.contract.envelope import wrap
from shared.contract.errors import DependencyDown
from shared.contract.events import EVENTS_EXCHANGE, Event, ExtractionFailed, ModelActivated
from shared.contract.identity import ModelRef
from shared.contract.topology import EXTRACTOR_QUEUE, STATE_QUEUE, topology
from shared.runtime.broker import Publisher, Unconfirmed, to_message
from shared.runtime.broker.link import Link
from shared.runtime.clock import now
from shared.runtime.management import Management
from shared.runtime.tokens import read_token
from tests.broker import Broker
from tests.described import DescribedTransport
from tests.servers import Urls

PLAN = topology((timedelta(milliseconds=50),))
QUEUE = "modelswap.subscription.generator"
OVERFLOW = f"{QUEUE}.overflow"
ACTIVATED = {"events": ["model.activated.v1"]}


@dataclass
class Audit:
    rows: list[tuple[str, ...]] = field(default_factory=list)
    is_away: bool = False

    async def audit(self, *row: str, key: str | None = None, refused: str | None = None) -> None:
        assert key is refused is None
        if self.is_away:
            raise DependencyDown("Postgres does not answer")
        self.rows.append(row)


@dataclass
class Ops:
    """The operators' API with the subscriptions of a broker, and a tester's hands on that."""

    api: httpx.AsyncClient
    broker: Broker
    publisher: Publisher
    management: Management
    audit: Audit

    async def add(self, name: str = "generator", **wanted: Any) -> dict[str, Any]:
        answer = await self.api.put(f"/subscriptions/{name}", json={**ACTIVATED, **wanted})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def publish(self, *events: Event) -> None:
        for event in events:
            await self.publisher.publish(to_message(wrap(event, source="state", now=now()), PLAN))


@contextlib.asynccontextmanager
async def opened(
    urls: Urls, management_url: str | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Management, Audit]]:
    audit = Audit()
    async with Management(management_url or urls.management_url, vhost="/") as management:
        router = subscription_router(Subscriptions(management, urls.amqp_url), audit.audit)
        api = create_api(router, tokens=[read_token("operator/olga:token-of-olga")])
        headers = {"Authorization": "Bearer token-of-olga"}
        async with httpx.AsyncClient(
            transport=DescribedTransport(api), base_url="http://ops/v1", headers=headers
        ) as client:
            yield client, management, audit


@pytest.fixture
async def ops(broker_urls: Urls) -> AsyncIterator[Ops]:
    if not broker_urls.management_url:
        pytest.skip("the management API of this broker is not known")
    async with (
        Broker(broker_urls.amqp_url, PLAN) as broker,
        Publisher(broker.url, name="test", timeout_seconds=60) as publisher,
        opened(broker_urls) as (api, management, audit),
    ):
        # Another test may have left some on this broker.
        await remove_all(api)
        audit.rows.clear()
        yield Ops(api, broker, publisher, management, audit)
        await remove_all(api)


async def remove_all(api: httpx.AsyncClient) -> None:
    for each in (await api.get("/subscriptions")).json()["items"]:
        await api.delete(f"/subscriptions/{each['name']}")


def activated(generation: int, user: str = "ada") -> ModelActivated:
    model = ModelRef.parse(f"acme/{user}:{generation:064x}")
    assert model is not None
    return ModelActivated(training_id=f"t{generation}", user_id=user, generation=generation, ref=uuid4(), model=model)


def failed(number: int) -> ExtractionFailed:
    return ExtractionFailed(training_id=f"t{number}", error="no_version", detail="none in the output")


@contextlib.asynccontextmanager
async def logged_in(url: str) -> AsyncIterator[aiormq.Channel]:
    link = await Link.open(url, name="subscriber")
    try:
        yield await link.open_channel()
    finally:
        await link.close()


async def take(channel: aiormq.Channel, queue: str) -> Any:
    async with asyncio.timeout(60):
        while (got := await channel.basic_get(queue)).delivery_tag is None:
            await asyncio.sleep(0.02)
    return got


async def test_a_subscriber_gets_what_it_subscribed_to(ops):
    added = await ops.add()

    await ops.publish(failed(1), activated(2))

    async with logged_in(added["amqp_url"]) as channel:
        got = await take(channel, added["queue"])
        left = await channel.basic_get(added["queue"])
    assert got.header.properties.headers["ce-type"] == "dev.modelswap.model.activated.v1"
    assert left.delivery_tag is None


#: All that a subscriber's user may not do.
FORBIDDEN: dict[str, Callable[[aiormq.Channel], Awaitable[object]]] = {
    "read a queue of ours": lambda channel: channel.basic_get(STATE_QUEUE),
    "read another's queue": lambda channel: channel.basic_get("modelswap.subscription.other"),
    "purge a queue": lambda channel: channel.queue_purge(EXTRACTOR_QUEUE),
    "declare a queue": lambda channel: channel.queue_declare("mine"),
    "delete its own queue": lambda channel: channel.queue_delete(QUEUE),
    "bind its own queue": lambda channel: channel.queue_bind(QUEUE, EVENTS_EXCHANGE, "#"),
    "declare an exchange": lambda channel: channel.exchange_declare("mine"),
    "publish an event": lambda channel: channel.basic_publish(
        b"{}", exchange=EVENTS_EXCHANGE, routing_key="model.activated.v1"
    ),
    "write to a queue": lambda channel: channel.basic_publish(b"{}", routing_key=STATE_QUEUE),
}


async def test_a_subscribers_user_may_do_nothing_else(ops):
    added = await ops.add()
    await ops.add("other")

    allowed = []
    for name, work in FORBIDDEN.items():
        async with logged_in(added["amqp_url"]) as channel:
            try:
                await work(channel)
                allowed.append(name)
            except aiormq.exceptions.ChannelAccessRefused:
                continue

    assert allowed == []


async def test_a_client_goes_on_with_its_queue_when_there_is_one_again(ops):
    """With the rights of its own user."""
    added = await ops.add()
    await ops.management.delete("queues", QUEUE)
    link = RabbitLink(await aio_pika.connect(added["amqp_url"]), QUEUE, look_seconds=0)
    await link.consume(NEXT)
    is_log = link.is_log
    await ops.add()

    reading = asyncio.create_task(link.next(60))
    async with asyncio.timeout(60):
        while link.is_log:
            await asyncio.sleep(0.01)
    await ops.publish(activated(1))
    found = await reading
    await link.close()

    assert is_log
    assert found is not None
    assert found.offset is None


async def test_a_client_with_the_name_of_another_subscription_is_refused(ops):
    added = await ops.add()
    await ops.add("other")

    with pytest.raises(Refused, match=r"modelswap\.subscription\.other"):
        async with asyncio.timeout(20):
            await anext(aiter(subscribe(added["amqp_url"], subscription="other")))


async def test_a_full_subscription_delays_nobody_and_keeps_the_newest(ops):
    added = await ops.add(max_length=2)
    await ops.add("mailer")

    # Each publish waits for its confirm.
    await ops.publish(*map(activated, range(1, 6)))

    assert await ops.broker.depth("modelswap.subscription.mailer") == 5
    await ops.broker.until(OVERFLOW, 3)
    async with logged_in(added["amqp_url"]) as channel:
        kept, moved = await take(channel, QUEUE), await take(channel, OVERFLOW)
    assert b'"generation":4' in kept.body.replace(b" ", b"")
    assert moved.header.properties.headers["x-death"][0]["reason"] == "maxlen"


async def test_an_event_that_fails_too_often_moves_to_the_overflow_queue(ops):
    added = await ops.add()
    await ops.publish(activated(1))

    async with logged_in(added["amqp_url"]) as channel:
        for _ in range(21):
            got = await take(channel, QUEUE)
            await channel.basic_reject(got.delivery_tag, requeue=True)
        moved = await take(channel, OVERFLOW)

    assert moved.header.properties.headers["x-death"][0]["reason"] == "delivery_limit"


async def test_a_repeated_put_changes_nothing_and_tells_no_password(ops):
    first, second = await ops.add(), await ops.add()

    assert second == {**first, "amqp_url": None}
    outcome = "asked: model.activated.v1; at most 100000"
    assert [row[1:] for row in ops.audit.rows] == [
        (f"subscription.{done}", "subscription generator", "", outcome) for done in ("added", "changed")
    ]
    async with logged_in(first["amqp_url"]):
        pass


async def test_a_half_removed_subscription_is_audited_as_added(ops):
    await ops.add(max_length=5)
    await ops.management.delete_user("modelswap-subscription-generator")
    await ops.management.delete("policies", "modelswap-subscription-generator")

    again = await ops.add()

    assert (again["max_length"], again["amqp_url"] is None) == (100_000, False)
    assert [(done, outcome) for _, done, _, _, outcome in ops.audit.rows] == [
        ("subscription.added", "asked: model.activated.v1; at most 5"),
        ("subscription.added", "asked: model.activated.v1; at most 100000"),
    ]


async def test_events_and_limit_of_a_subscription_can_change(ops):
    await ops.add()

    changed = await ops.add(events=["extraction.failed.v1", "model.withdrawn.v1"], max_length=1)

    await ops.publish(activated(1), failed(2), failed(3))
    await ops.broker.until(QUEUE, 1)
    await ops.broker.until(OVERFLOW, 1)
    assert changed["events"] == ["extraction.failed.v1", "model.withdrawn.v1"]
    assert changed["max_length"] == 1
    assert (await ops.add())["max_length"] == 1


async def test_a_rotated_password_ends_the_old_one(ops):
    old = (await ops.add())["amqp_url"]

    new = (await ops.api.post("/subscriptions/generator/rotate-password", json={})).json()["amqp_url"]

    async with logged_in(new):
        pass
    with pytest.raises(aiormq.exceptions.AMQPError):
        await Link.open(old, name="subscriber")


async def test_a_removed_subscription_leaves_nothing_behind(ops):
    added = await ops.add()
    await ops.publish(activated(1))

    async with logged_in(added["amqp_url"]) as channel:
        removed = await ops.api.delete("/subscriptions/generator", params={"reason": "moved"})
        async with asyncio.timeout(60):
            await asyncio.wait([channel.closing])

    assert removed.json()["name"] == "generator"
    assert (await ops.api.get("/subscriptions/generator")).status_code == 404
    for queue in (QUEUE, OVERFLOW):
        with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
            await ops.broker.depth(queue)
    assert not await ops.management.has_user("modelswap-subscription-generator")
    assert ops.audit.rows[-1][:4] == ("olga", "subscription.removed", "subscription generator", "moved")


async def test_what_can_not_be_audited_is_not_done(ops):
    login = (await ops.add())["amqp_url"]
    await ops.publish(activated(1))

    ops.audit.is_away = True
    answers = [
        await ops.api.put("/subscriptions/mailer", json=ACTIVATED),
        await ops.api.post("/subscriptions/generator/rotate-password", json={}),
        await ops.api.delete("/subscriptions/generator"),
    ]
    ops.audit.is_away = False

    assert [answer.status_code for answer in answers] == [503] * 3
    assert [each["name"] for each in (await ops.api.get("/subscriptions")).json()["items"]] == ["generator"]
    assert await ops.broker.depth(QUEUE) == 1
    async with logged_in(login):
        pass
    missing = [
        await ops.api.delete("/subscriptions/mailer"),
        await ops.api.post("/subscriptions/mailer/rotate-password", json={}),
    ]
    assert [answer.status_code for answer in missing] == [404] * 2
    assert len(ops.audit.rows) == 1


async def test_a_list_tells_how_far_each_subscription_is_behind(ops):
    begun = now()
    await ops.add()
    await ops.add("mailer", events=["extraction.failed.v1"])
    await ops.api.get("/subscriptions")  # from now on it is known what arrives
    await ops.publish(activated(1), activated(2))

    # RabbitMQ counts every five seconds.
    async with asyncio.timeout(60):
        while True:
            generator, mailer = (await ops.api.get("/subscriptions")).json()["items"]
            if generator["waiting"] and generator["oldest_at"]:
                break
            await asyncio.sleep(0.1)

    shown = (await ops.api.get("/subscriptions/generator")).json()
    assert (generator["name"], generator["waiting"], generator["events"]) == ("generator", 2, ["model.activated.v1"])
    assert begun.isoformat() < generator["oldest_at"]
    assert (mailer["name"], mailer["waiting"], mailer["oldest_at"]) == ("mailer", 0, None)
    assert shown == generator


async def test_an_unknown_event_is_refused_with_the_one_that_is_meant(ops):
    answer = await ops.api.put("/subscriptions/generator", json={"events": ["model.activatd.v1"]})

    assert answer.status_code == 422
    assert "do you mean model.activated.v1?" in answer.text


async def test_queues_that_can_hold_up_all_subscribers_are_named(ops):
    subscriptions = Subscriptions(ops.management, ops.broker.url)
    await ops.add()
    policy = {"pattern": "^by-policy$", "apply-to": "queues", "definition": {"overflow": "reject-publish"}}
    await ops.management.put("policies", "rejects", body=policy)
    async with ops.broker.channel() as channel:
        for name, arguments in (
            ("by-argument", {"x-overflow": "reject-publish", "x-max-length": 1}),
            ("by-policy", {}),
            ("behind-an-exchange", {"x-overflow": "reject-publish"}),
            ("drops", {"x-overflow": "drop-head", "x-max-length": 1}),
        ):
            await channel.queue_declare(name, durable=True, arguments=arguments)
        await channel.exchange_declare("theirs", exchange_type="fanout")
        await channel.exchange_bind("theirs", EVENTS_EXCHANGE, "#")
        await channel.queue_bind("behind-an-exchange", "theirs")
        for name in ("by-argument", "by-policy", "drops"):
            await channel.queue_bind(name, EVENTS_EXCHANGE, "model.activated.v1")
    try:
        # RabbitMQ tells of a queue's policy within five seconds.
        async with asyncio.timeout(60):
            while len(reasons := await subscriptions.list_blocking()) < 3:
                await asyncio.sleep(0.1)
        await ops.publish(activated(1))
        # This is what they do once they are full.
        with pytest.raises(Unconfirmed):
            await ops.publish(activated(2))
    finally:
        async with ops.broker.channel() as channel:
            await channel.exchange_delete("theirs")
            for name in ("by-argument", "by-policy", "behind-an-exchange", "drops"):
                await channel.queue_delete(name)
        await ops.management.delete("policies", "rejects")

    assert [reason.partition(" ")[0] for reason in reasons] == ["behind-an-exchange", "by-argument", "by-policy"]
    assert await subscriptions.list_blocking() == []


async def test_a_foreign_queue_of_that_name_is_left_alone(ops):
    async with ops.broker.channel() as channel:
        await channel.queue_declare(QUEUE, durable=True)

    answer = await ops.api.put("/subscriptions/generator", json=ACTIVATED)

    assert answer.status_code == 409
    assert "inequivalent arg" in answer.text
    assert await ops.broker.depth(QUEUE) == 0


async def test_a_refused_login_says_what_is_needed_without_the_password(ops, broker_urls):
    wrong = broker_urls.management_url.replace("@", "-not@")
    secret = wrong.partition("@")[0].rpartition(":")[2]

    async with opened(broker_urls, wrong) as (api, _, _):
        answer = await api.get("/subscriptions")

    assert answer.status_code == 409
    assert "needs the tag administrator" in answer.text
    assert secret not in answer.text
