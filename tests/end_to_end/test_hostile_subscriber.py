"""
A subscriber that stops reading harms nobody, while everything is killed: the others end with what Postgres has.

    pytest tests/end_to_end/test_hostile_subscriber.py                               120 swaps
    pytest -m chaos tests/end_to_end/test_hostile_subscriber.py --chaos-trainings N   N swaps; 5,000 if not given

In the first half of the swaps there is no hostile subscriber, in the second half there is: the latencies of both halves
are reported, and not judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any, Final

import asyncpg
import pytest

from deploy.local import Servers
from services.ops.subscriptions.client import Subscriptions
from services.ops.subscriptions.views import Subscribe
from services.state.store import Store
from shared.contract.errors import DependencyDown, TransientError
from shared.contract.topology import DEAD_QUEUE, STATE_QUEUE, topology
from shared.runtime.broker import Publisher, to_message
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, no_bare_exception
from shared.runtime.management import Management
from shared.runtime.settings import StateSettings
from shared.runtime.waiting import is_stray_cancel
from tests.broker import Broker
from tests.databases import new_database
from tests.stack import Process, Stack
from tests.state import model_of, opened_store, ready, registration

pytestmark = pytest.mark.chaos

_AT_ONCE: Final = 16
_USERS: Final = 20
#: Slow enough for a busy machine: what is measured is a swap, not the queue before it.
_PACE_SECONDS: Final = 0.02
_SETTLES_SECONDS: Final = 240
_ANSWER_SECONDS: Final = 5
#: So many swaps lie between two faults.
_PAUSE: Final = 100
_KINDS: Final = ("subscriber", "state", "rabbitmq", "postgres")
_MODELS: Final = "SELECT user_id, generation, model FROM state.user_models"
_UNPUBLISHED: Final = "SELECT count(*) FROM state.outbox WHERE published_at IS NULL"

Use = tuple[int, str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    default = 5000 if "chaos" in config.getoption("markexpr") else 120
    metafunc.parametrize("swaps", [config.getoption("--chaos-trainings") or default])


@dataclass
class Reader:
    """A service that reads its subscription, and keeps the highest generation of each user."""

    url: str
    queue: str
    #: What it uses; it outlives each kill, as a database does.
    used: dict[str, Use] = field(default_factory=dict)
    #: When each change arrived, by user and generation.
    arrived: dict[tuple[str, int], float] = field(default_factory=dict)
    events: int = 0
    _link: Link | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._read()
            except LINK_ERRORS:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                if not is_stray_cancel():
                    raise

    async def kill(self) -> None:
        """As if its process was killed: whatever is not acked comes again."""
        if self._link is not None:
            await self._link.close()

    async def _read(self) -> None:
        self._link = link = await Link.open(self.url, name="generator")
        try:
            while True:
                # The library may wait for ever for an answer on a connection that was closed meanwhile.
                with no_bare_exception():
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        got = await link.channel.basic_get(self.queue)
                        if got.delivery_tag is not None:
                            self._take(json.loads(got.body))
                            await link.channel.basic_ack(got.delivery_tag)
                if got.delivery_tag is None:
                    await asyncio.sleep(0.005)
        finally:
            await link.close()

    def _take(self, event: dict[str, Any]) -> None:
        self.events += 1
        user, generation = event["user_id"], event["generation"]
        if generation > self.used.get(user, (0, ""))[0]:
            self.used[user] = generation, event["model"]
            self.arrived[user, generation] = asyncio.get_running_loop().time()


async def hold(url: str, queue: str) -> None:
    """Take one event, never ack it, and read no more; connect again after each loss."""
    while True:
        with contextlib.suppress(*LINK_ERRORS):
            link = await Link.open(url, name="hostile")
            try:
                await link.consume(queue, lambda _: None, prefetch=1)
                await link.lost.wait()
            finally:
                await link.close()
        await asyncio.sleep(0.1)


@dataclass
class Product:
    """State alone, with its servers; trainings are registered in its store, and their models are published as ready."""

    servers: Servers
    database_url: str
    state: Process
    store: Store
    publisher: Publisher
    reader: Reader
    dice: Random
    #: The newest training of each user, which must win.
    newest: dict[str, str] = field(default_factory=dict)
    #: When each ready model was published, by user and generation; those before the hostile subscriber came, and after.
    published: tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]] = field(
        default_factory=lambda: ({}, {})
    )
    is_beside_hostile: bool = False
    requested: int = 0

    async def swap_all(self, numbers: Sequence[int]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

        async def one(number: int) -> None:
            user, training_id = f"user-{number % _USERS}", f"t{number}"
            # One after the other for each user, so that it is known which one is the newest.
            async with slots, turns[user]:
                await self._swap(user, training_id)

        async with asyncio.TaskGroup() as tasks:
            for number in numbers:
                tasks.create_task(one(number))
                await asyncio.sleep(_PACE_SECONDS)

    async def _swap(self, user: str, training_id: str) -> None:
        await _until_done(lambda: self.store.adopt(registration(user, training_id)))
        self.newest[user] = training_id
        record = await _until_done(lambda: self.store.find_training(training_id))
        message = to_message(ready(training_id), topology())
        await _until_done(lambda: self.publisher.publish(message))
        self.published[self.is_beside_hostile][user, record.generation] = asyncio.get_running_loop().time()
        self.requested += 1
        # Few at a time, or the latencies are those of a backlog.
        try:
            async with asyncio.timeout(_SETTLES_SECONDS):
                while self.reader.used.get(user, (0, ""))[0] < record.generation:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(await self._where_is(user, training_id))

    async def _where_is(self, user: str, training_id: str) -> str:
        """Describe how far the model of *training_id* came."""
        connection = await asyncpg.connect(self.database_url)
        try:
            stage = await connection.fetchval("SELECT stage FROM state.trainings WHERE training_id = $1", training_id)
            sent = await connection.fetch(
                "SELECT id, routing_key, created_at, published_at FROM state.outbox WHERE training_id = $1", training_id
            )
        finally:
            await connection.close()
        broker = Broker(self.servers.amqp_url)
        depths = {queue: await broker.depth(queue) for queue in (STATE_QUEUE, DEAD_QUEUE, self.reader.queue)}
        return (
            f"after {self.requested} swaps {user} got no model of {training_id}. It is {stage}; its "
            f"outbox has {[tuple(row) for row in sent]}; the reader uses {self.reader.used.get(user)} after "
            f"{self.reader.events} events; messages wait in {depths}"
        )

    async def strike(self, faults: Sequence[tuple[int, str]]) -> None:
        """Let each fault happen when so many swaps were requested."""
        for after, kind in faults:
            while self.requested < after:
                await asyncio.sleep(0.02)
            seconds = self.dice.uniform(0, 1)
            match kind:
                case "subscriber":
                    await self.reader.kill()
                case "state":
                    self.state.kill()
                    await asyncio.sleep(seconds)
                    self.state.start()
                case "rabbitmq" | "postgres":
                    server = getattr(self.servers, kind)
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(seconds)
                    await asyncio.to_thread(server.start)

    def latencies(self) -> list[str]:
        """How long it took from ready models to their events at the reader, in both halves."""
        arrived = self.reader.arrived
        return [
            _said([1000 * (arrived[swap] - at) for swap, at in half.items() if swap in arrived])
            for half in self.published
        ]


async def _until_done(work: Callable[[], Any]) -> Any:
    async with asyncio.timeout(_SETTLES_SECONDS):
        while True:
            try:
                return await work()
            except (DependencyDown, TransientError):
                await asyncio.sleep(0.05)


def schedule(dice: Random, swaps: int) -> list[tuple[int, str]]:
    """Each kind at least once, and then as it comes."""
    kinds = [*_KINDS, *(dice.choice(_KINDS) for _ in range(swaps // _PAUSE - len(_KINDS)))]
    dice.shuffle(kinds)
    return [(swaps * number // (len(kinds) + 1), kind) for number, kind in enumerate(kinds, start=1)]


@contextlib.asynccontextmanager
async def running(servers: Servers, folder: Path) -> AsyncIterator[tuple[Product, Subscriptions]]:
    dice = Random(1)
    async with contextlib.AsyncExitStack() as opened:
        enter = opened.enter_async_context
        database_url = await enter(new_database(servers.database_url))
        stack = Stack(folder, amqp_url=servers.amqp_url, database_url=database_url, replicate_url="http://127.0.0.1:1")
        await enter(stack.clients())
        await enter(Broker(servers.amqp_url, topology(StateSettings.load(stack.environment).retry_delays)))
        management = await enter(Management(servers.management_url, vhost="/"))
        subscriptions = Subscriptions(management, servers.amqp_url)
        added = await subscriptions.put("generator", Subscribe(events=("model.activated.v1",)))
        assert added.amqp_url is not None
        reader = Reader(added.amqp_url, added.queue)
        store = await enter(opened_store(database_url, max_size=_AT_ONCE))
        publisher = await enter(Publisher(servers.amqp_url, name="test", timeout_seconds=60))
        state = stack.processes["state"]
        state.start()
        opened.callback(state.kill)
        await stack.until_ready("state")
        reading = asyncio.create_task(reader.run())
        opened.callback(reading.cancel)
        yield Product(servers, database_url, state, store, publisher, reader, dice), subscriptions
        for name in ("generator", "hostile"):
            await subscriptions.remove(name)


async def read_models(database_url: str) -> dict[str, Use]:
    connection = await asyncpg.connect(database_url)
    try:
        return {row["user_id"]: (row["generation"], row["model"]) for row in await connection.fetch(_MODELS)}
    finally:
        await connection.close()


async def test_a_hostile_subscriber_harms_no_other_while_all_is_killed(
    restartable_servers: Servers, tmp_path: Path, say: Callable[[str], None], swaps: int
):
    async with running(restartable_servers, tmp_path) as (product, subscriptions):
        faults = schedule(product.dice, swaps)
        striking = asyncio.create_task(product.strike(faults))
        await product.swap_all(range(swaps // 2))
        hostile = await _until_done(
            lambda: subscriptions.put("hostile", Subscribe(events=("model.activated.v1",), max_length=10))
        )
        holding = asyncio.create_task(hold(hostile.amqp_url, hostile.queue))
        product.is_beside_hostile = True
        await product.swap_all(range(swaps // 2, swaps))
        await striking

        wanted = {user: str(model_of(training_id)) for user, training_id in product.newest.items()}
        models = await until_settled(product, wanted)
        holding.cancel()
        without, beside = product.latencies()
        say(
            f"{swaps} swaps, {len(faults)} faults, {product.reader.events} events: "
            f"{without} without a hostile subscriber, {beside} beside it"
        )

        assert {user: model for user, (_, model) in models.items()} == wanted
        assert product.reader.used == models
        assert await Broker(restartable_servers.amqp_url).depth(hostile.queue) <= 10


async def until_settled(product: Product, wanted: Mapping[str, str]) -> dict[str, Use]:
    """Wait until Postgres has the *wanted* models, and the reader what Postgres has; return the models, in any case."""
    models: dict[str, Use] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLES_SECONDS):
            while {user: model for user, (_, model) in models.items()} != wanted or product.reader.used != models:
                await asyncio.sleep(0.1)
                models = await read_models(product.database_url)
    return models


def _said(latencies: Sequence[float]) -> str:
    """Describe them; a swap that a later one overtook has none."""
    slow = quantiles(latencies, n=20)[-1] if len(latencies) > 1 else 0
    return f"{len(latencies)} swaps took {median(latencies or [0]):.0f} ms (median), {slow:.0f} ms (95 %)"
