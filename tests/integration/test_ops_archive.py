"""What comes to the dead queue is in Postgres once, whatever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from services.ops.letters.archive import Archive
from services.ops.letters.store import Store
from services.ops.letters.views import Filter
from shared.contract.answers import END
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import PermanentError
from shared.contract.events import (
    Event,
    ExtractionRequested,
    ModelReady,
    TrainingProgressed,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.topology import DEAD_EXCHANGE, DEAD_QUEUE, EXTRACTOR_QUEUE, PROGRESS_QUEUE, STATE_QUEUE, topology
from shared.contract.values import Evidence
from shared.runtime import telemetry
from shared.runtime.broker import Consumer, Delivery, Outgoing, Publisher, RawConsumer, one_by_one, to_message
from shared.runtime.clock import now
from shared.runtime.postgres_errors import TooSlow
from shared.runtime.settings import BrokerSettings
from tests.broker import Broker
from tests.counts import counted
from tests.ops import NOON, opened_letters
from tests.ops import dead as dead_letter
from tests.stack import Stack
from tests.state import Wire

DELAYS = (timedelta(milliseconds=50),)
PLAN = topology(DELAYS)


def settings(broker: Broker) -> BrokerSettings:
    return BrokerSettings(amqp_url=SecretStr(broker.url), retry_delays=DELAYS)


def dead(training_id: str, **options: Any) -> Outgoing:
    return dead_letter(training_id, PLAN, **options)


@pytest.fixture
async def broker(broker_url: str) -> AsyncIterator[Broker]:
    async with Broker(broker_url, PLAN) as broker:
        yield broker


@pytest.fixture
async def publisher(broker: Broker) -> AsyncIterator[Publisher]:
    async with Publisher(broker.url, name="test", topology=PLAN, timeout_seconds=60) as publisher:
        yield publisher


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_letters(database_url) as store:
        yield store


@contextlib.asynccontextmanager
async def keeping(broker: Broker, publisher: Publisher, keep: Any, **options: Any) -> AsyncIterator[RawConsumer]:
    """The archive, until the end of the block."""
    stopping = asyncio.Event()
    consumer = RawConsumer(settings(broker), publisher, queue=DEAD_QUEUE, service="ops", keep=keep, **options)
    task = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer
    finally:
        stopping.set()
        await asyncio.wait_for(task, 60)


async def trainings(store: Store) -> list[str]:
    found = await store.list_letters(Filter(), limit=10_000)
    return sorted(letter.training_id or "" for letter in found)


async def until(store: Store, count: int) -> None:
    async with asyncio.timeout(120):
        while (await store.counts()).open < count:
            await asyncio.sleep(0.05)


async def test_a_letter_is_acked_once_it_is_stored(broker, publisher, store):
    async with keeping(broker, publisher, Archive(store, now).keep):
        for n in range(100):
            await publisher.publish(dead(f"t{n}"))
        await until(store, 100)

    assert await broker.depth(DEAD_QUEUE) == 0
    assert len(set(await trainings(store))) == 100


async def test_what_no_one_can_read_is_stored_as_it_is(broker, publisher, store):
    odd = Outgoing(
        DEAD_EXCHANGE, STATE_QUEUE, b"\xff\x00", {"x": {"y": [bytearray(b"\xff"), NOON]}, "n": None}, content_type=None
    )
    async with keeping(broker, publisher, Archive(store, now).keep):
        await publisher.publish(odd)
        await until(store, 1)

    letter = await store.find(1)
    assert letter is not None
    assert (letter.queue, letter.error_code, letter.body_base64) == (STATE_QUEUE, "unknown", "/wA=")


async def test_a_message_of_ten_megabytes_is_a_letter_like_any_other(broker, publisher, store):
    large = replace(dead("large"), body=b"x" * 10_000_001)
    async with keeping(broker, publisher, Archive(store, now).keep):
        for message in (dead("t1"), large, dead("t2")):
            await publisher.publish(message)
        await until(store, 3)

    found = await store.list_letters(Filter(), limit=9)
    assert sorted(letter.body_bytes > 10_000_000 for letter in found) == [False, False, True]


async def test_while_postgres_is_away_letters_wait_and_nobody_hurries(broker, publisher, database_url):
    asked = 0
    async with Wire(database_url) as wire, opened_letters(wire.url) as store:
        keep = Archive(store, now).keep

        async def counting(messages: Sequence[Delivery]) -> None:
            nonlocal asked
            asked += 1
            await keep(messages)

        async with keeping(broker, publisher, counting) as consumer:
            await publisher.publish(dead("before"))
            await until(store, 1)
            wire.refuse()
            for n in range(100):
                await publisher.publish(dead(f"t{n}"))
            async with asyncio.timeout(60):
                while await consumer.check() is None:
                    await asyncio.sleep(0.05)
            before = asked
            await asyncio.sleep(2)
            tried = asked - before
            wire.admit()
            await until(store, 101)

    assert tried < 20
    assert await broker.depth(DEAD_QUEUE) == 0
    async with opened_letters(database_url) as store:
        assert len(set(await trainings(store))) == 101


@pytest.mark.parametrize("error", [PermanentError("of no table"), TooSlow("canceling statement")])
async def test_unstorable_letter_is_kept_and_delays_no_other(broker, publisher, store, error):
    keep = Archive(store, now).keep
    refusing = True

    async def picky(messages: Sequence[Delivery]) -> None:
        if refusing and any(b'"poison"' in message.body for message in messages):
            raise error
        await keep(messages)

    async with keeping(broker, publisher, picky, prefetch=4, put_back_seconds=0.2) as consumer:
        await publisher.publish(dead("poison"))
        for n in range(30):
            await publisher.publish(dead(f"t{n}"))
        await until(store, 30)
        assert "poison" not in await trainings(store)
        assert len(consumer.aside) == 1
        refusing = False
        await until(store, 31)

    assert len(consumer.aside) == 0
    found = await store.list_letters(Filter(training_id="poison"), limit=9)
    assert [(letter.queue, letter.error_code) for letter in found] == [(EXTRACTOR_QUEUE, "no_version")]
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_crashed_consumer_leaves_a_counted_letter(broker, publisher, store):
    telemetry.deliveries.clear()
    published = dead("t1")
    await publisher.publish(Outgoing("", EXTRACTOR_QUEUE, published.body, {"ce-id": "e1"}))
    async with keeping(broker, publisher, Archive(store, now).keep):
        async with asyncio.timeout(60):
            while not (await store.counts()).open:
                await broker.take_and_die(EXTRACTOR_QUEUE)

    letter = await store.find(1)
    assert letter is not None
    assert (letter.queue, letter.error_code, letter.training_id) == (EXTRACTOR_QUEUE, "crashed_too_often", "t1")
    assert counted(telemetry.deliveries)[DEAD_QUEUE, "handled"] == 1


async def test_progress_that_is_given_up_is_a_letter_and_blocks_nobody(broker, publisher, store):
    async def refuse(_: Envelope) -> Sequence[Event]:
        raise PermanentError("no such column")

    stopping = asyncio.Event()
    progress = Consumer(settings(broker), publisher, queue=PROGRESS_QUEUE, service="state", handle=one_by_one(refuse))
    consuming = asyncio.create_task(progress.run(stopping))
    async with keeping(broker, publisher, Archive(store, now).keep):
        for n in range(2):
            event = TrainingProgressed(training_id=f"t{n}", fraction=0.5)
            await publisher.publish(to_message(wrap(event, source="test", now=NOON), PLAN))
        await until(store, 2)
    stopping.set()
    await consuming

    assert await trainings(store) == ["t0", "t1"]


async def test_a_delivery_that_is_handled_again_leaves_one_letter(broker, store):
    seconds = iter((1.5, 2.5))

    async def find(envelope: Envelope) -> Sequence[Event]:
        evidence = Evidence(shape="plain_text", checks=("exists",), seconds=next(seconds))
        model = ModelRef("acme", "ada", "a" * 64)
        return [ModelReady(training_id=envelope.event.training_id, model=model, evidence=evidence)]

    async def refuse(_: Envelope) -> Sequence[Event]:
        raise PermanentError("nobody registered it", code="unknown_training")

    class LosesItsFirstAck(Publisher):
        has_lost = False

        async def publish(self, message: Outgoing) -> None:
            await super().publish(message)
            if message.routing_key == ModelReady.key and not self.has_lost:
                self.has_lost = True
                assert extractor._subscription._link is not None
                await extractor._subscription._link.close()

    def consumer(queue: str, handle: Any, publisher: Publisher) -> Consumer:
        handler = one_by_one(handle)
        return Consumer(settings(broker), publisher, queue=queue, service="test", handle=handler, batch_size=1)

    telemetry.deliveries.clear()
    stopping = asyncio.Event()
    async with LosesItsFirstAck(broker.url, name="test", topology=PLAN) as publisher:
        extractor, state = consumer(EXTRACTOR_QUEUE, find, publisher), consumer(STATE_QUEUE, refuse, publisher)
        async with keeping(broker, publisher, Archive(store, now).keep), asyncio.TaskGroup() as running:
            for each in (extractor, state):
                running.create_task(each.run(stopping))
            requested = ExtractionRequested(
                training_id="t1", request_id=UUID(int=1), ref=UUID(int=2), destination=ModelName("acme", "ada")
            )
            await publisher.publish(to_message(wrap(requested, source="test", now=NOON), PLAN))
            async with asyncio.timeout(60):
                while counted(telemetry.deliveries).get((DEAD_QUEUE, "handled")) != 2:
                    await asyncio.sleep(0.05)
            stopping.set()

    (letter,) = await store.list_letters(Filter(), limit=9)
    assert (letter.event_type, letter.error_code) == (ModelReady.key, "unknown_training")


async def test_killed_again_and_again_it_stores_each_letter_once(broker, publisher, store, database_url, tmp_path):
    ops = Stack(tmp_path, amqp_url=broker.url, database_url=database_url, replicate_url="http://127.0.0.1:9").processes[
        "ops"
    ]

    async def publish(first: int) -> None:
        await asyncio.gather(*(publisher.publish(dead(f"t{n}")) for n in range(first, first + 500)))

    stored = [0]
    try:
        for first in (0, 500):
            await publish(first)
            ops.start()
            # There are more than are stored by now, however fast it was.
            await until(store, stored[-1] + 1)
            ops.kill()
            stored.append((await store.counts()).open)
        await publish(1000)
        ops.start()
        await until(store, 1500)
    finally:
        ops.kill()

    # The last one may have died between the commit and the ack as well.
    async with keeping(broker, publisher, Archive(store, now).keep):
        await broker.until(DEAD_QUEUE, 0)
    assert await broker.depth(DEAD_QUEUE) == 0
    found: set[str | None] = set()
    before = END
    while page := await store.list_letters(Filter(), before=before, limit=500):
        found |= {letter.training_id for letter in page}
        before = page[-1].number
    assert found == {f"t{n}" for n in range(1500)}
    assert (await store.counts()).open == 1500
