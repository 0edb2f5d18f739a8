"""Do the events that were committed reach the broker? Against a real Postgres, and a broker that fails to order."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from services.state.relay import Relay, publish_to
from services.state.store import Store
from services.state.store.outbox import Publish, Round, StoredEvent
from shared.contract.envelope import Envelope, decode
from shared.contract.errors import DependencyDown
from shared.contract.events import ModelActivated, ReplaySettled
from shared.contract.limits import Unpublishable
from shared.contract.topology import topology
from shared.runtime import telemetry
from shared.runtime.broker import Outgoing, to_message
from tests.counts import counted
from tests.state import Wire, connected, decoded, opened_store, ready, registration, replayed, succeeded

Trouble = Callable[[StoredEvent], BaseException | None]


@dataclass
class Broker:
    """Confirms what it gets, except where it is told to fail."""

    fails: Trouble = lambda _: None
    #: Happens after the broker got a round and before anybody hears of that.
    meanwhile: Callable[[], None] = lambda: None
    stored: list[StoredEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, events: Sequence[StoredEvent]) -> Sequence[BaseException | None]:
        results = [self.fails(event) for event in events]
        self.stored += [event for event, result in zip(events, results, strict=True) if result is None]
        self.changed.set()
        self.meanwhile()
        return results

    @property
    def got(self) -> list[Envelope]:
        return [decoded(event) for event in self.stored]

    @property
    def generations(self) -> list[int]:
        return [envelope.event.generation for envelope in self.got if isinstance(envelope.event, ModelActivated)]

    async def until(self, count: int) -> None:
        """Wait until *count* different events are here."""
        async with asyncio.timeout(60):
            while len({event.headers["ce-id"] for event in self.stored}) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


async def swap(store: Store, count: int, user_id: str = "ada") -> None:
    """Swap *user_id*'s model *count* times."""
    for number in range(1, count + 1):
        name = f"{user_id}-{number}"
        await store.adopt(registration(user_id, name))
        assert await store.apply([ready(name)]) == [None]


@contextlib.asynccontextmanager
async def relaying(store: Store, publish: Publish, *, pause_seconds: float = 0.01) -> AsyncIterator[Relay]:
    """A relay at work."""
    stopping = asyncio.Event()
    relay = Relay(store, publish, pause_seconds=pause_seconds)
    running = asyncio.create_task(relay.run(stopping))
    try:
        yield relay
    finally:
        stopping.set()
        await running


async def unpublished(database_url: str) -> int:
    async with connected(database_url) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM state.outbox WHERE published_at IS NULL"))


# One round


async def test_events_are_published_once_in_commit_order(store, database_url):
    broker = Broker()
    await swap(store, 3)

    rounds = [await store.relay(broker.publish, limit=100) for _ in range(2)]

    assert rounds == [Round(3), Round(0)]
    assert broker.generations == [1, 2, 3]
    assert await unpublished(database_url) == 0


async def test_an_event_is_published_exactly_as_it_was_written(store):
    broker = Broker()
    await store.adopt(registration("ünïcode/ada", "t1", trigger_word='TOK"\\'))
    await store.apply([ready("t1")])

    await store.relay(broker.publish, limit=100)

    (envelope,) = broker.got
    record = await store.find_training("t1")
    assert record is not None
    assert record.reference is not None
    assert envelope.event == ModelActivated(
        training_id="t1",
        user_id="ünïcode/ada",
        generation=1,
        ref=record.ref,
        model=record.reference,
        trigger_word='TOK"\\',
    )
    assert (envelope.id, envelope.causation_id) == (envelope.event.id, ready("t1").id)


async def test_a_long_outbox_is_published_in_rounds(store):
    broker = Broker()
    await swap(store, 5)

    rounds = [await store.relay(broker.publish, limit=2) for _ in range(3)]

    assert [done and done.published for done in rounds] == [2, 2, 1]
    assert broker.generations == [1, 2, 3, 4, 5]


async def test_only_unconfirmed_events_are_published_again(store, database_url):
    refused = DependencyDown("a queue is full")
    broker = Broker(fails=lambda event: refused if b'"generation":2,' in event.body else None)
    await swap(store, 3)

    first = await store.relay(broker.publish, limit=100)
    broker.fails = lambda _: None
    second = await store.relay(broker.publish, limit=100)

    assert [first, second] == [Round(2, (refused,)), Round(1)]
    assert broker.generations == [1, 3, 2]
    assert await unpublished(database_url) == 0


async def test_one_relay_works_at_a_time(store):
    broker, other = Broker(), Broker()
    rounds: list[Round | None] = []

    async def publish_while_another_tries(events: Sequence[StoredEvent]) -> Sequence[BaseException | None]:
        rounds.append(await store.relay(other.publish, limit=100))
        return await broker.publish(events)

    await swap(store, 2)
    rounds.append(await store.relay(publish_while_another_tries, limit=100))

    assert rounds == [None, Round(2)]
    assert (broker.generations, other.generations) == ([1, 2], [])


async def test_an_unmarked_event_is_republished_with_the_same_id(database_url):
    async with Wire(database_url) as wire, opened_store(wire.url) as store:
        broker = Broker(meanwhile=wire.cut)
        await swap(store, 1)

        with pytest.raises(DependencyDown):
            await store.relay(broker.publish, limit=100)
        broker.meanwhile = lambda: None
        await store.relay(broker.publish, limit=100)

    assert broker.generations == [1, 1]
    assert len({envelope.id for envelope in broker.got}) == 1


# For as long as the process runs


async def test_a_commit_of_this_process_is_published_at_once(store, database_url):
    broker = Broker()
    await swap(store, 1)

    async with relaying(store, broker.publish):
        await broker.until(1)
        await swap(store, 3, "bob")
        await broker.until(4)

    assert await unpublished(database_url) == 0


async def test_several_relays_lose_nothing_and_keep_each_user_s_order(store, database_url):
    broker = Broker()

    async with (
        opened_store(database_url) as other,
        relaying(store, broker.publish),
        relaying(store, broker.publish),
        relaying(other, broker.publish),
    ):
        await asyncio.gather(swap(store, 8, "ada"), swap(other, 8, "bob"))
        await broker.until(16)

    assert await unpublished(database_url) == 0
    for user in ("ada", "bob"):
        told = [
            e.event.generation for e in broker.got if isinstance(e.event, ModelActivated) and e.event.user_id == user
        ]
        assert list(dict.fromkeys(told)) == list(range(1, 9))


class Flaky:
    """Fails in turn in each way in which a publisher can, and then not, over and over."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.calls: Counter[str] = Counter()

    async def publish(self, events: Sequence[StoredEvent]) -> Sequence[BaseException | None]:
        match self.calls.total() % 4:
            case 0:
                self.calls["raises"] += 1
                raise RuntimeError("a bug")
            case 1:
                self.calls["cancels"] += 1
                raise asyncio.CancelledError
            case 2:
                self.calls["refuses"] += 1
                return [DependencyDown("away") for _ in events]
        self.calls["works"] += 1
        return await self._broker.publish(events)


async def test_the_relay_outlives_every_failure_of_the_publisher(store, database_url):
    flaky = Flaky(broker := Broker())
    await swap(store, 3)

    async with relaying(store, flaky.publish):
        await broker.until(3)

    assert flaky.calls.keys() == {"raises", "cancels", "refuses", "works"}
    assert await unpublished(database_url) == 0


async def test_while_an_event_is_not_taken_it_is_said_why(store):
    broker = Broker(fails=lambda _: DependencyDown("a queue of model.activated.v1 is full"))
    await swap(store, 1)

    async with relaying(store, broker.publish) as relay:
        async with asyncio.timeout(60):
            while await relay.check() is None:
                await asyncio.sleep(0.01)
        said = (await relay.check(), counted(telemetry.delayed)[()])
        broker.fails = lambda _: None
        async with asyncio.timeout(60):
            while await relay.check() is not None:
                await asyncio.sleep(0.01)

    assert said == ("a queue of model.activated.v1 is full", 1)
    assert counted(telemetry.delayed)[()] == 0
    assert broker.generations == [1]


async def test_a_bug_in_publishing_is_logged_as_one(store):
    broker = Broker(fails=lambda _: KeyError("a bug"))
    await swap(store, 1)

    with capture_logs() as logs:
        async with relaying(store, broker.publish) as relay, asyncio.timeout(60):
            while await relay.check() is None:
                await asyncio.sleep(0.01)

    assert [repr(line["exc_info"]) for line in logs if line["event"] == "loop.broken"][:1] == ["KeyError('a bug')"]


async def test_the_relay_outlives_the_loss_of_postgres(database_url):
    async with Wire(database_url) as wire, opened_store(wire.url) as store:
        broker = Broker(meanwhile=wire.refuse)
        await swap(store, 2)

        async with relaying(store, broker.publish):
            await broker.until(2)
            broker.meanwhile = lambda: None
            wire.restore()
            async with opened_store(database_url) as other:
                await swap(other, 1, "bob")
            await broker.until(3)

    assert await unpublished(database_url) == 0


async def test_an_event_of_a_newer_version_is_published_as_stored(store, database_url):
    """Byte for byte: neither its type nor the layout of its JSON is known here."""
    broker = Broker()
    body, headers = (
        '{"training_id" : "t1",\n "ü": [1.50]}',
        {"ce-type": "dev.modelswap.model.retired.v9", "ce-id": "e1"},
    )
    row = {"routing_key": "model.retired.v9", "exchange": "an.exchange", "training_id": "t1"}
    async with connected(database_url) as connection:
        await connection.execute(
            """INSERT INTO state.outbox
               (event_id, user_id, generation, routing_key, exchange, training_id, headers, body)
               VALUES ('e1', 'ada', 1, $1, $2, $3, $4, $5)""",
            *row.values(),
            json.dumps(headers),
            body,
        )

    done = await store.relay(broker.publish, limit=100)

    assert done == Round(1)
    assert broker.stored == [StoredEvent(**row, user_id="ada", headers=headers, body=body.encode())]


async def test_a_stored_event_and_its_envelope_give_the_same_message(store):
    sent: list[Outgoing] = []

    class Sink:
        async def publish(self, message: Outgoing) -> None:
            sent.append(message)

    plan = topology()
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1"), replayed(ready("t1"))])

    await store.relay(publish_to(Sink().publish, plan), limit=100)

    envelopes = [decode(each.headers, each.content_type, each.body) for each in sent]
    assert [type(each.event) for each in envelopes] == [ModelActivated, ReplaySettled]
    assert sent == [to_message(each, plan) for each in envelopes]


async def set_aside(database_url: str) -> list[tuple[int, str]]:
    async with connected(database_url) as connection:
        rows = await connection.fetch(
            "SELECT generation, set_aside_reason FROM state.outbox WHERE set_aside_at NOTNULL"
        )
        return [tuple(row) for row in rows]


async def test_an_unpublishable_event_is_set_aside_and_delays_no_other(store, database_url):
    refused = Unpublishable("the body takes 2 MiB")
    broker = Broker(fails=lambda event: refused if event.training_id == "ada-2" else None)
    await swap(store, 3)

    # Whoever is in trouble waits for so long that the last event would never come.
    async with relaying(store, broker.publish, pause_seconds=1000) as relay:
        await broker.until(2)
        await swap(store, 1, "bob")
        await broker.until(3)
        assert await relay.check() is None

    assert broker.generations == [1, 3, 1]
    assert await set_aside(database_url) == [(2, "message_too_large: the body takes 2 MiB")]
    assert counted(telemetry.unpublishable)[()] == 1


async def test_a_whole_round_of_unpublishable_events_holds_up_no_other(store, database_url):
    broker = Broker(fails=lambda event: Unpublishable("no") if event.training_id != "bob-1" else None)
    await swap(store, 3)
    await swap(store, 1, "bob")

    rounds = [await store.relay(broker.publish, limit=2) for _ in range(3)]

    assert [(done.published, len(done.unpublishable), done.set_aside) for done in rounds] == [
        (0, 2, 2),
        (1, 1, 3),
        (0, 0, 3),
    ]


async def test_an_event_that_was_repaired_is_published(store, database_url):
    broker = Broker(fails=lambda _: Unpublishable("no"))
    await swap(store, 1)
    await store.relay(broker.publish, limit=10)
    broker.fails = lambda _: None

    async with connected(database_url) as connection:
        await connection.execute("UPDATE state.outbox SET set_aside_at = NULL, set_aside_reason = NULL WHERE id = 1")
    done = await store.relay(broker.publish, limit=10)

    assert done == Round(1)
    assert broker.generations == [1]


async def test_a_relay_that_is_really_cancelled_ends(store):
    running = asyncio.create_task(Relay(store, Broker().publish).run(asyncio.Event()))
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


# What nobody needs any more


async def test_old_rows_are_deleted_and_what_is_unpublished_never(store, database_url):
    await swap(store, 3)
    await store.relay(Broker().publish, limit=2)
    async with connected(database_url) as connection:
        await connection.execute(
            """UPDATE state.outbox SET published_at = now() - interval '8 days' WHERE published_at IS NOT NULL;
               UPDATE state.inbox SET received_at = now() - interval '31 days';
               INSERT INTO state.inbox VALUES ('new');
               INSERT INTO state.idempotency_keys (key, request_digest, ref, created_at)
               SELECT age, '', ref, now() - age::interval
               FROM unnest(ARRAY['25 hours', '23 hours']) AS age, (SELECT ref FROM state.trainings LIMIT 1) AS known;"""
        )

    deleted = [await store.prune(limit=2) for _ in range(3)]

    assert deleted == [2, 1, 0]
    assert await unpublished(database_url) == 1
    async with connected(database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM state.outbox") == 1
        assert await connection.fetchval("SELECT string_agg(event_id, ',') FROM state.inbox") == "new"
        assert await connection.fetchval("SELECT string_agg(key, ',') FROM state.idempotency_keys") == "23 hours"
