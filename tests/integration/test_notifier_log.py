"""How the notifier reads the events log: after a pause, another log, a gap or a broken event; one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import aiormq
import pytest
from aiormq import spec

from services.notifier.migrate import ROLE
from services.notifier.reader import Reader
from services.notifier.signing import Seed
from services.notifier.store import Store
from services.notifier.views import AddEndpoint
from shared.contract.envelope import wrap
from shared.contract.events import EVENTS_EXCHANGE, ExtractionFailed
from shared.contract.queues import LogLimits
from shared.contract.topology import DEAD_QUEUE, DELIVERIES_QUEUE, EVENTS_LOG, Topology, topology
from shared.runtime.broker import Outgoing, Publisher, declare_log, offset_of, opened_log, to_message
from shared.runtime.clock import now
from shared.runtime.postgres import connect
from tests.broker import Broker
from tests.databases import opened_pool
from tests.hostile import UNREADABLE
from tests.webhooks import PATIENCE_SECONDS, activated

T = TypeVar("T")

PLAN: Final = topology()
#: Segments of 10 kB.
SMALL: Final = topology(log_limits=LogLimits(max_bytes=200_000))
#: Too short for a slow machine: then events are read again, which must change nothing.
SILENT_SECONDS: Final = 0.3


@dataclass
class Bench:
    """A log, a publisher of events, and an endpoint that wants them."""

    broker: Broker
    publisher: Publisher
    store: Store
    endpoint: UUID

    async def publish(self, *users: str) -> None:
        """Publish the first model of each user."""
        for user in users:
            envelope = wrap(activated(user, 1), source="state", now=now())
            await self.publisher.publish(to_message(envelope, PLAN))

    async def make_log(self, plan: Topology = PLAN) -> None:
        """Delete the log, and make it anew."""
        await self.broker.delete_queue(EVENTS_LOG)
        async with self.broker.link() as link:
            await declare_log(link, plan)

    async def events(self) -> list[str]:
        """The events that have a delivery, oldest first."""
        found = await self.store.list_deliveries(self.endpoint, status=None, limit=1000)
        return [each.event_id for each in reversed(found)]

    async def until_stored(self, *users: str) -> None:
        """Wait until just the first models of *users* have a delivery each."""
        wanted = [str(activated(user, 1).id) for user in users]
        await until(self.events, lambda found: sorted(found) == sorted(wanted))

    def reader(self) -> Reader:
        open_log = partial(opened_log, self.broker.url, "test")
        return Reader(self.store, open_log, self.publisher.publish, silent_seconds=SILENT_SECONDS)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        reader, stopping = self.reader(), asyncio.Event()
        running = asyncio.create_task(reader.run(stopping))
        try:
            yield reader
        finally:
            stopping.set()
            await running


async def until(ask: Callable[[], Awaitable[T]], is_so: Callable[[T], object]) -> T:
    found = await ask()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so(found):
                await asyncio.sleep(0.02)
                found = await ask()
    except TimeoutError:
        raise AssertionError(f"found {found}") from None
    return found


@pytest.fixture
async def bench(broker_url: str, database_url: str) -> AsyncIterator[Bench]:
    async with opened_pool(database_url, role=ROLE) as pool:
        broker, store = Broker(broker_url), Store(pool, at_once=1)
        await broker.delete_queue(EVENTS_LOG)
        try:
            async with Publisher(broker_url, name="test", timeout_seconds=60) as publisher:
                wanted = AddEndpoint(url="https://hooks.example.com", events=("model.activated.v1",))
                endpoint, _ = await store.add_endpoint(wanted, Seed("salt", "master"), None)
                bench = Bench(broker, publisher, store, endpoint.id)
                await bench.make_log()
                yield bench
        finally:
            await broker.delete_queue(EVENTS_LOG)


async def test_events_from_before_the_first_start_are_stored(bench):
    await bench.publish("ann", "ben")

    async with bench.reading() as reader:
        await bench.until_stored("ann", "ben")
        await bench.publish("cleo")
        await bench.until_stored("ann", "ben", "cleo")

        assert await reader.check() is None
        assert await reader.check_gap() is None


async def test_events_from_before_an_endpoint_are_not_for_it(bench):
    long_ago = wrap(activated("ann", 1), source="state", now=now() - timedelta(minutes=2))
    await bench.publisher.publish(to_message(long_ago, PLAN))
    await bench.publish("ben")

    async with bench.reading():
        await bench.until_stored("ben")


async def test_a_notifier_that_was_away_goes_on_where_it_was(bench):
    users = [f"u{number}" for number in range(450)]
    async with bench.reading():
        await bench.publish(*users[:5])
        await bench.until_stored(*users[:5])
    await bench.publish(*users[5:])

    async with bench.reading() as reader:
        await bench.until_stored(*users)
        assert await reader.check_gap() is None


@pytest.mark.parametrize("events", [1, 3, 8], ids=["shorter", "as long", "longer"])
async def test_a_log_made_anew_meanwhile_is_read_from_its_begin(bench, events):
    before, after = [f"a{number}" for number in range(3)], [f"b{number}" for number in range(events)]
    async with bench.reading():
        await bench.publish(*before)
        await bench.until_stored(*before)
    await bench.make_log()
    await _next_second()
    await bench.publish(*after)

    async with bench.reading() as reader:
        await bench.until_stored(*before, *after)
        assert "was made anew" in str(await reader.check_gap())


async def test_a_log_made_anew_is_read_without_a_restart(bench):
    async with bench.reading():
        await bench.publish("ann", "ben")
        await bench.until_stored("ann", "ben")
        await bench.make_log()
        await bench.publish("cleo")

        await bench.until_stored("ann", "ben", "cleo")


async def test_events_that_the_log_has_deleted_are_counted(bench):
    await bench.make_log(SMALL)
    async with bench.reading():
        await bench.publish("ann")
        await bench.until_stored("ann")
    long = wrap(ExtractionFailed(training_id="t", error="e", detail="x" * 4000), source="extractor", now=now())
    filler = replace(to_message(long, PLAN), mandatory=False)
    # Few at a time: what is written together is one chunk, and a segment ends behind a chunk.
    for _ in range(25):
        await asyncio.gather(*(bench.publisher.publish(filler) for _ in range(4)))
    await bench.publish("ben")
    async with opened_log(bench.broker.url, "test", 0) as events:
        oldest = offset_of((await events.take(PATIENCE_SECONDS))[0])

    async with bench.reading() as reader:
        await bench.until_stored("ann", "ben")
        assert oldest > 1
        assert await reader.check_gap() == f"{oldest - 1} events were deleted from {EVENTS_LOG} before they were read"


async def test_without_a_log_the_check_says_so_until_there_is_one(bench):
    await bench.broker.delete_queue(EVENTS_LOG)

    async with bench.reading() as reader:
        await until(reader.check, lambda said: said and "`modelswap topology apply`" in said)
        await bench.make_log()
        await bench.publish("ann")
        await bench.until_stored("ann")
        await until(reader.check, lambda said: said is None)


async def test_a_broken_event_is_a_dead_letter_and_the_rest_goes_on(bench):
    async with Broker(bench.broker.url, PLAN) as broker, bench.reading():
        broken = Outgoing(EVENTS_EXCHANGE, "model.activated.v1", b"{}", {"ce-id": "broken"}, mandatory=False)
        await bench.publish("ann")
        await bench.publisher.publish(broken)
        await bench.publish("ben")

        await bench.until_stored("ann", "ben")
        letter = await broker.wait_for(DEAD_QUEUE)

    assert (letter.headers["x-dead-queue"], letter.headers["x-dead-error"]) == (DELIVERIES_QUEUE, "malformed")


@pytest.mark.parametrize("table", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_event_whose_headers_can_not_be_read_stops_no_reader(table, bench):
    async with bench.reading():
        await bench.publish("ann")
        try:
            await bench.broker.publish_raw(EVENTS_LOG, table)
        except aiormq.exceptions.AMQPError:
            pytest.skip("this RabbitMQ takes no such headers")
        await bench.publish("ben")

        await bench.until_stored("ann", "ben")


async def test_a_broken_event_from_before_the_first_start_is_ignored(bench):
    async with Broker(bench.broker.url, PLAN) as broker:
        async with broker.channel() as channel:
            for properties in (spec.Basic.Properties(), spec.Basic.Properties(timestamp=now() - timedelta(days=1))):
                await channel.basic_publish(b"{}", routing_key=EVENTS_LOG, properties=properties)
        await bench.publish("ann")

        async with bench.reading():
            await bench.until_stored("ann")

        assert await broker.depth(DEAD_QUEUE) == 0


async def test_an_event_that_postgres_refuses_is_a_dead_letter(bench, database_url):
    connection = await connect(database_url, application_name="test")
    await connection.execute("ALTER TABLE notifier.events ADD CHECK (training_id <> 't-ben-1')")
    await connection.close()
    async with Broker(bench.broker.url, PLAN) as broker:
        await bench.publish("ann", "ben", "cleo")

        async with bench.reading():
            await bench.until_stored("ann", "cleo")
            letter = await broker.wait_for(DEAD_QUEUE)

    assert (letter.headers["x-dead-queue"], letter.headers["x-dead-error"]) == (DELIVERIES_QUEUE, "database_23514")


async def test_one_of_two_processes_reads_and_the_other_takes_over(bench):
    async with contextlib.AsyncExitStack() as first, bench.reading() as other:
        reader = await first.enter_async_context(bench.reading())
        await bench.publish("ann")
        await bench.until_stored("ann")
        assert [await each.check() for each in (reader, other)] == [None, None]
        await first.aclose()

        await bench.publish("ben")
        await bench.until_stored("ann", "ben")


async def _next_second() -> None:
    """Times of messages are whole seconds."""
    then = now().replace(microsecond=0) + timedelta(seconds=1)
    while now() < then:
        await asyncio.sleep(0.02)
