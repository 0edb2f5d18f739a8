"""Processes die, servers restart: at the end every user has the right model, and no reader ever saw a wrong one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx

from deploy.local import Servers
from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from shared.contract.events import EVENTS_EXCHANGE, ModelActivated
from shared.contract.topology import DEAD_QUEUE, EXTRACTOR_QUEUE, STATE_QUEUE
from tests.chance import Chance
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import TRAINER, deliver, post_webhook, register, start
from tests.servers import Urls
from tests.stack import SERVICES, Stack

TRAININGS: Final = 300
USERS: Final = 100
SEED: Final = 20261124


@dataclass
class Readers:
    """Somebody who asks for models all the time, and what was wrong with the answers.

    Several ask at once: an answer is held against what was known before it was asked for, not against what another one
    heard while it was on its way.
    """

    stack: Stack
    users: list[str]
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    _seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._read(random.Random(number))) for number in range(4)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, dice: random.Random) -> None:
        while True:
            user = dice.choice(self.users)
            before = self._seen.get(user)
            try:
                answer = await self.stack.api.get(f"/v1/users/{user}/model")
            except httpx.TransportError:
                await asyncio.sleep(0.05)  # the process that answers is being restarted
                continue
            if answer.status_code != 503:
                self._judge(user, before, answer)
            await asyncio.sleep(0.1)

    def _judge(self, user: str, before: tuple[int, str] | None, answer: httpx.Response) -> None:
        self.answers += 1
        if answer.status_code == 404:
            if before:
                self.wrong.append(f"{user} lost generation {before[0]}")
            return
        model: dict[str, Any] = answer.json()
        if answer.status_code != 200 or None in model.values():
            self.wrong.append(f"{user} was answered {answer.status_code}: {model}")
            return
        now = (model["generation"], model["reference"])
        if model["owner"] + "/" + model["name"] != f"acme/{user}":
            self.wrong.append(f"{user} got {model['reference']}")
        if before and (now[0] < before[0] or (now[0] == before[0] and now != before)):
            self.wrong.append(f"{user} went from {before} to {now}")
        self._seen[user] = max(now, self._seen.get(user, now))


async def request_all(stack: Stack, dice: random.Random) -> None:
    """Start all trainings, several of each user's at once, whoever dies meanwhile."""
    order = [f"user-{number}" for number in range(USERS) for _ in range(TRAININGS // USERS)]
    dice.shuffle(order)
    slots = asyncio.Semaphore(8)

    async def one(user: str) -> None:
        async with slots:
            while not await request(stack, user, str(uuid4())):
                pass

    await asyncio.gather(*(one(user) for user in order))


async def request(stack: Stack, user: str, key: str) -> bool:
    """
    Start one training; False if it can not be found out whether it was started.

    When state dies between writing a training down and asking Replicate for it, the same key is answered 202 until
    somebody finds out. A product that can not wait for that requests anew.
    """
    body = {"user_id": user, "destination": f"acme/{user}", "trainer": TRAINER, "input": {"steps": 100}}
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            answer = await stack.api.post("/v1/trainings", json=body, headers={"Idempotency-Key": key})
            if answer.is_success and answer.json()["training_id"]:
                return True
        await asyncio.sleep(0.1)
    return False


async def trainings(database: asyncpg.Connection) -> dict[str, list[str]]:
    """The trainings of each user that Replicate knows, in the order of their requests."""
    rows = await database.fetch(
        "SELECT user_id, array_agg(training_id ORDER BY generation) AS ids FROM state.trainings"
        " WHERE training_id IS NOT NULL GROUP BY user_id"
    )
    return {row["user_id"]: row["ids"] for row in rows}


def expected(simulator: Simulator, requested: dict[str, list[str]]) -> dict[str, str | None]:
    """The training whose model each user must have at the end: the newest requested one that proved good."""
    good = {each.id for each in simulator.world.trainings() if each.faults.outcome is Status.SUCCEEDED}
    return {user: next((each for each in reversed(ids) if each in good), None) for user, ids in requested.items()}


async def until_settled(stack: Stack, database: asyncpg.Connection) -> None:
    """Wait until every training came to an end, and nothing is left in a work queue or in the outbox."""
    running = (
        "SELECT count(*) FROM state.trainings"
        " WHERE training_id IS NOT NULL AND stage IN ('requested', 'running', 'verifying')"
    )
    unpublished = "SELECT count(*) FROM state.outbox WHERE published_at IS NULL"
    async with asyncio.timeout(150):
        while await database.fetchval(running) or await database.fetchval(unpublished):
            await asyncio.sleep(0.1)
    for queue in (EXTRACTOR_QUEUE, STATE_QUEUE):
        await stack.broker.until(queue, 0)


async def test_whatever_dies_every_user_ends_with_the_right_model(restartable_servers: Servers, tmp_path: Path):
    dice = random.Random(SEED)
    servers = restartable_servers
    chances = {"outcome": 0.2, "duplicate": 0.2, "reorder": 0.1, "version_late_calls": 0.1, "late_logs_seconds": 0.1}
    async with open_stack(
        tmp_path,
        servers,
        seed=SEED,
        speed=60.0,
        duration_seconds=600.0,
        # A training lasts ten seconds: five logs of each are enough, and fifty would be most of the work.
        log_interval_real_seconds=2,
        # A webhook is retried for long enough to outlive every restart here; who finds lost ones is another's story.
        retry_delays_real_seconds=(0.5, 1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 8),
    ) as (stack, simulator):
        simulator.world.orders = Chance(chances, SEED)
        readers = Readers(stack, [f"user-{number}" for number in range(USERS)])
        async with readers.reading():
            requesting = asyncio.create_task(request_all(stack, dice))
            for _ in range(2):
                for name in SERVICES:
                    await asyncio.sleep(dice.uniform(0.3, 1.5))
                    stack.processes[name].kill()
                    stack.processes[name].start()
                    await stack.until_ready(name)
            for server in (servers.rabbitmq, servers.postgres):
                await asyncio.sleep(dice.uniform(0.3, 1.0))
                server.kill()
                server.start()
            await stack.until_ready()
            await requesting
            database = await asyncpg.connect(stack.environment["MODELSWAP_DATABASE_URL"])
            await until_settled(stack, database)
        requested = await trainings(database)
        twice = await database.fetchval(
            "SELECT count(*) FROM (SELECT ref FROM state.model_history GROUP BY ref HAVING count(*) > 1) AS swapped"
        )
        await database.close()
        models = {user: await stack.model(user) for user in requested}

        assert sum(map(len, requested.values())) >= TRAININGS
        assert {user: model and model["training_id"] for user, model in models.items()} == expected(
            simulator, requested
        )
        assert readers.wrong == []
        assert readers.answers > 100  # a few thousand on a calm machine
        assert (await stack.broker.depth(DEAD_QUEUE), await stack.dead_letters(), twice) == (0, [], 0)


async def test_while_rabbitmq_is_down_the_sender_is_told_and_its_retry_succeeds(
    restartable_servers: Servers, tmp_path: Path
):
    servers = restartable_servers
    async with open_stack(tmp_path, servers) as (stack, _):
        await register(stack, "one", "user-1", "acme/u-1")
        body = b'{"id":"one","status":"failed","error":"too few images"}'
        servers.rabbitmq.kill()

        refused = await post_webhook(stack, body, "msg-1")
        still_answered = await stack.api.get("/v1/users/user-1/model")
        servers.rabbitmq.start()
        await stack.until_ready()
        accepted = await deliver(stack, body, "msg-1")

        await stack.until_stage("one", "failed")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert still_answered.status_code == 404
    assert accepted.status_code == 202


async def test_while_postgres_is_down_nothing_is_lost_and_no_attempt_is_burnt(
    restartable_servers: Servers, tmp_path: Path
):
    servers = restartable_servers
    async with open_stack(tmp_path, servers) as (stack, _):
        names = [f"t{number}" for number in range(20)]
        for name in names:
            await register(stack, name, name, "acme/u-1")
        servers.postgres.kill()

        for name in names:
            body = json.dumps({"id": name, "status": "failed", "error": "too few images"}).encode()
            assert (await deliver(stack, body, f"msg-{name}")).status_code == 202
        away = await stack.api.get("/v1/users/t0/model")
        servers.postgres.start()
        for name in names:
            await stack.until_stage(name, "failed")

        await stack.until_ready("ops")
        dead = [await stack.broker.depth(DEAD_QUEUE), await stack.dead_letters()]
        retried = [line for line in stack.processes["state"].lines() if line["event"] == "delivery.retried"]
    assert (away.status_code, dead, retried) == (503, [0, []], [])


async def test_a_webhook_that_the_receiver_died_over_is_sent_again(servers: Urls, tmp_path: Path):
    async with open_stack(
        tmp_path,
        servers,
        retry_delays_real_seconds=(0.5,) + (1,) * 120,
    ) as (stack, simulator):
        simulator.order(FaultOrder.model_validate({"duration_seconds": 100}))
        # Before the training begins: it lasts a third of a second.
        stack.processes["receiver"].kill()
        answer = await stack.api.post(
            "/v1/trainings",
            json={"user_id": "user-1", "destination": "acme/user-1", "trainer": TRAINER, "input": {"steps": 10}},
        )
        async with asyncio.timeout(60):
            while (WebhookEvent.COMPLETED, None) not in {(each.event, each.status) for each in simulator.attempts}:
                await asyncio.sleep(0.05)
        stack.processes["receiver"].start()

        ended = await stack.until_stage(answer.json()["training_id"], "active")

    assert ended["current"] is True


async def test_a_subscriber_whose_queue_is_full_holds_up_events_and_is_named_but_holds_up_no_swap(
    servers: Urls, tmp_path: Path
):
    async with open_stack(tmp_path, servers) as (stack, _):
        key = ModelActivated.key
        async with stack.broker.subscribed(EVENTS_EXCHANGE, key) as patient:
            async with stack.broker.subscribed(EVENTS_EXCHANGE, key, max_length=0, overflow="reject-publish"):
                begun = await start(stack, "user-1")
                await stack.until_stage(begun["training_id"], "active")
                said = await stack.until_in_trouble("state", "outbox")
            await stack.until_ready("state")
            heard = await stack.broker.wait_for(patient)
        model = await stack.model("user-1")

    assert said == f"a queue of {key} is full, or its node is down: the broker refused"
    assert model is not None
    assert json.loads(heard.body)["training_id"] == model["training_id"] == begun["training_id"]
