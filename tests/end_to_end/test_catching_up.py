"""A subscriber begins in the middle of many swaps, under restarts: snapshot and log together are what Postgres has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from shared.contract.errors import DependencyDown
from shared.contract.topology import topology
from shared.runtime.broker import Publisher, to_message
from shared.runtime.settings import StateSettings
from tests.broker import Broker
from tests.catching_up import Subscriber
from tests.databases import new_database
from tests.proxy import Proxy, proxied
from tests.servers import Urls
from tests.stack import Stack
from tests.state import connected, model_of, ready

_DESTINATION: Final = "acme/ada"
_AT_A_TIME: Final = 8
_WITHDRAWN: Final = 10
_LATEST: Final = """
    SELECT DISTINCT ON (user_id) user_id, generation, model::text FROM state.model_history
    ORDER BY user_id, generation DESC
"""
_UNPUBLISHED: Final = "SELECT count(*) FROM state.outbox WHERE published_at IS NULL"


@dataclass
class Product:
    """State alone, behind a broker whose connections can be cut."""

    stack: Stack
    proxy: Proxy
    publisher: Publisher
    users: list[str]
    swaps: int = 0
    withdrawals: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(7))

    async def swap(self, user: str) -> None:
        """Let *user* have a model of a new training."""
        training_id = f"t-{uuid4()}"
        body = {"user_id": user, "destination": _DESTINATION, "start": False}
        key = {"Idempotency-Key": training_id}
        registered = await self._insist(lambda: self.stack.api.post("/v1/trainings", json=body, headers=key))
        envelope = ready(training_id, ref=UUID(registered["ref"]), model=model_of(training_id))
        message = to_message(envelope, topology())
        while True:
            try:
                await self.publisher.publish(message)
            except DependencyDown:
                await asyncio.sleep(0.05)
            else:
                break
        self.swaps += 1

    async def withdraw(self, user: str) -> None:
        """Take the model of *user* away, if there is one."""
        key = {"Idempotency-Key": str(uuid4())}
        path, body = f"/v1/users/{user}/model/withdraw", {"reason": "test"}
        done = await self._insist(lambda: self.stack.api.post(path, json=body, headers=key), unless=404)
        self.withdrawals += done is not None

    async def swap_many(self, users: list[str], times: int) -> None:
        """Swap the models of *users* at random, many at a time, and withdraw some."""

        async def work(count: int) -> None:
            for _ in range(count):
                user = self.random.choice(users)
                await (self.withdraw(user) if self.random.randrange(_WITHDRAWN) == 0 else self.swap(user))

        await asyncio.gather(*(work(times // _AT_A_TIME) for _ in range(_AT_A_TIME)))

    async def _insist(self, ask: Callable[[], Awaitable[httpx.Response]], *, unless: int = 0) -> Any:
        while True:
            try:
                answer = await ask()
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == unless:
                return None
            if answer.is_success:
                return answer.json()
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)

    async def restart_state(self) -> None:
        state = self.stack.processes["state"]
        state.kill()
        state.start()
        await self.stack.until_ready("state")

    async def until_all_is_published(self) -> None:
        """Wait until every event that was published to state is handled, and every committed one is published."""
        await self.stack.broker.until("modelswap.state", 0)
        async with connected(self.stack.environment["MODELSWAP_DATABASE_URL"]) as database:
            while await database.fetchval(
                "SELECT count(*) FROM state.trainings WHERE model IS NULL"
            ) or await database.fetchval(_UNPUBLISHED):
                await asyncio.sleep(0.05)

    async def models(self) -> dict[str, tuple[int, str | None]]:
        """What Postgres has."""
        async with connected(self.stack.environment["MODELSWAP_DATABASE_URL"]) as database:
            return {user: (generation, model) for user, generation, model in await database.fetch(_LATEST)}


@pytest.fixture
async def product(servers: Urls, tmp_path: Path) -> AsyncIterator[Product]:
    async with proxied(servers.amqp_url) as proxy, new_database(servers.database_url) as database:
        amqp_url = proxy.url(servers.amqp_url)
        stack = Stack(tmp_path, amqp_url=amqp_url, database_url=database, replicate_url="http://127.0.0.1:1")
        plan = topology(StateSettings.load(stack.environment).retry_delays)
        async with (
            stack.clients(),
            Broker(servers.amqp_url, plan) as broker,
            Publisher(servers.amqp_url, name="extractor", topology=plan, timeout_seconds=60) as publisher,
        ):
            stack.broker = broker
            stack.processes["state"].start()
            try:
                await stack.until_ready("state")
                yield Product(stack, proxy, publisher, [f"user-{number}" for number in range(40)])
            finally:
                stack.processes["state"].stop()


async def test_a_subscriber_that_begins_in_the_middle_ends_with_what_postgres_has(
    product: Product, request: pytest.FixtureRequest, say: Callable[[str], None]
):
    """With `--catching-up-swaps 2000` it takes minutes; by default, seconds."""
    swaps = request.config.getoption("--catching-up-swaps")
    trouble = max(1, swaps // 300)
    early, late = product.users[:20], product.users[10:]

    async def disturb() -> None:
        for _ in range(trouble):
            await product.restart_state()
            product.proxy.cut()

    async with asyncio.timeout(1200):
        await product.swap("withdrawn")
        await product.swap_many(early, swaps // 3)
        await product.until_all_is_published()
        swapping = asyncio.create_task(product.swap_many(late, swaps - swaps // 3))
        disturbing = asyncio.create_task(disturb())
        subscriber = Subscriber(product.stack.environment["MODELSWAP_AMQP_URL"], product.stack.api)
        async with subscriber.subscribed():
            await asyncio.gather(swapping, disturbing)
            await product.until_all_is_published()
            await product.withdraw("withdrawn")
            await product.until_all_is_published()
            # All other events are before this one in the log.
            await product.swap("the last")
            await subscriber.until("the last")
            # The broker's log may have late events of the stack that other tests share.
            ours = {*product.users, "withdrawn", "the last"}
            kept = {user: model for user, model in subscriber.models.items() if user in ours}
    expected = await product.models()

    say(
        f"{product.swaps} swaps and {product.withdrawals} withdrawals of {len(expected)} users, {trouble} restarts of "
        f"state, {trouble} cuts of its broker: {dict(subscriber.news)} were news"
    )
    assert kept == expected
    assert subscriber.news.keys() == {"snapshot", "log"}
    assert kept["withdrawn"] == (2, None)
