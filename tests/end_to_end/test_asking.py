"""What people ask for walks the same road: looking again, canceling, and going back to an earlier model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import jsonschema_rs
import pytest

from services.cli.docs.schemas import PUBLIC, event_schema, headers_schema
from services.simulator.faults import ApiFaultOrder, FaultOrder
from services.simulator.simulator import Simulator
from shared.contract.envelope import TYPE_PREFIX
from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.identity import ModelName, ModelRef
from shared.contract.topology import STATE_QUEUE
from shared.replicate.client import Replicate
from tests.broker import Message
from tests.end_to_end.conftest import RECORDED, SELF_STARTED
from tests.end_to_end.test_walk import TRAINER, deliver, register, start, told
from tests.stack import REPLICATE_TOKEN, Stack, post

#: More calls than the extractor makes before it gives up, and fewer than it makes when it is asked again as well.
GIVES_UP: Final = 10
#: Messages of a run of this test, one file for each public event.
CAPTURED: Final = Path(__file__).parents[1] / "fixtures" / "messages"


@pytest.fixture
async def user() -> str:
    """A user whom nobody knows yet."""
    return f"user-{uuid4().hex[:8]}"


def order(simulator: Simulator, **faults: Any) -> None:
    simulator.order(FaultOrder.model_validate(faults))


async def say(stack: Stack, path: str, status: int, body: Any = None) -> dict[str, Any]:
    answer = await post(stack.api, path, body)
    assert answer.status_code == status, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def succeed(
    stack: Stack, training: str, user: str, version: str = RECORDED, *, webhook: str = "/webhooks/replicate"
) -> None:
    """Replicate says that a training made a version."""
    body = {"id": training, "status": "succeeded", "output": {"version": f"acme/{user}:{version}"}, "webhook": webhook}
    path = httpx.URL(webhook).raw_path.decode()
    await deliver(stack, json.dumps(body).encode(), f"msg-{training}", path=path)


@pytest.mark.parametrize("by", ["training", "user"])
async def test_a_late_version_is_found_by_a_retried_extraction(stack, simulator, user, by):
    first = await start(stack, user)
    await stack.until_stage(first["training_id"], "active")
    old = await stack.model(user)
    order(simulator, version_late_calls=GIVES_UP)
    begun = await start(stack, user)
    given_up = await stack.until_stage(begun["training_id"], "unverified")
    meanwhile = await stack.model(user)

    path = f"/v1/trainings/{begun['training_id']}" if by == "training" else f"/v1/users/{user}"
    asked = await say(stack, f"{path}/retry-extraction", 202)
    ended = await stack.until_stage(begun["training_id"], "active")

    assert given_up["failure"]["code"] == "version_not_there_yet"
    assert meanwhile == old
    assert (asked["training_id"], asked["stage"], asked["failure"]) == (begun["training_id"], "verifying", None)
    assert (ended["current"], ended["failure"]) == (True, None)


async def test_a_deleted_output_is_replaced_by_the_stored_one(stack, simulator, user):
    order(simulator, version_late_calls=GIVES_UP)
    begun = await start(stack, user)
    await stack.until_stage(begun["training_id"], "unverified")
    simulator.world.orders.add_for_calls(ApiFaultOrder(route="trainings.get", status=404, next=1))

    await say(stack, f"/v1/trainings/{begun['ref']}/retry-extraction", 202)
    await stack.until_stage(begun["training_id"], "active")

    assert simulator.world.orders.next_of_call("trainings.get") is None
    model = await stack.model(user)
    assert model is not None
    assert model["training_id"] == begun["training_id"]


async def test_a_retry_without_a_result_ends_like_the_first(stack, simulator, user):
    order(simulator, output={"weights": "$weights"})
    begun = await start(stack, user)
    before = await stack.until_stage(begun["training_id"], "unverified")

    await say(stack, f"/v1/trainings/{begun['training_id']}/retry-extraction", 202)
    # While it is being looked for, its failure is forgotten.
    after = await stack.until_stage(begun["training_id"], "unverified")
    await stack.broker.until(STATE_QUEUE, 0)

    assert after["failure"] == before["failure"]
    assert after["updated_at"] > before["updated_at"]


async def test_a_bare_version_is_completed_from_the_registration(stack, simulator, user):
    order(simulator, output="$version")
    destination = ModelName("acme", user)
    trainer = ModelRef.parse(TRAINER)
    assert trainer is not None
    async with Replicate(REPLICATE_TOKEN, stack.environment["MODELSWAP_REPLICATE_API_URL"]) as replicate:
        webhook = f"{stack.url('receiver')}/webhooks/replicate"
        begun = await replicate.create_training(trainer, destination, {"steps": 1000}, webhook, ("start", "completed"))
    await register(stack, begun.id, user, str(destination))

    ended = await stack.until_stage(begun.id, "active")

    assert ended["reference"].startswith(f"acme/{user}:")
    assert await stack.dead_letters(training_id=begun.id) == []


async def test_completing_a_version_uses_the_webhooks_output(stack, user):
    training = f"t-{user}"
    await register(stack, training, user, f"acme/{user}")
    body = {"id": training, "status": "succeeded", "output": RECORDED}

    await deliver(stack, json.dumps(body).encode(), f"msg-{user}")
    ended = await stack.until_stage(training, "active")

    assert ended["reference"] == f"acme/{user}:{RECORDED}"


async def test_a_training_is_canceled_when_replicate_says_so(stack, simulator, user):
    order(simulator, duration_seconds=30_000)
    begun = await start(stack, user)
    await stack.until_stage(begun["training_id"], "running")

    asked = await say(stack, f"/v1/trainings/{begun['training_id']}/cancel", 202)
    ended = await stack.until_stage(begun["training_id"], "canceled")
    again = await stack.api.post(f"/v1/trainings/{begun['training_id']}/cancel")

    assert asked["stage"] == "running"
    assert ended["failure"]["code"] == "training_canceled"
    assert again.status_code == 409


async def test_a_rollback_beats_older_trainings_and_not_newer_ones(stack, user):
    old, new = [await start(stack, user) for _ in range(2)]
    for each in (old, new):
        await stack.until_stage(each["training_id"], "active", "replaced", "superseded")
    await stack.until_stage(new["training_id"], "active")
    late = f"late-{user}"
    await register(stack, late, user, f"acme/{user}")
    reference = (await stack.training(old["training_id"]))["reference"]

    rolled = await say(stack, f"/v1/users/{user}/model/rollback", 200, {"reason": "too dark", "to": reference})
    await succeed(stack, late, user)
    await stack.until_stage(late, "superseded")
    kept = await stack.model(user)
    newest = await start(stack, user)
    await stack.until_stage(newest["training_id"], "active")

    assert (rolled["training_id"], rolled["generation"]) == (old["training_id"], 4)
    assert kept == rolled
    history = (await stack.api.get(f"/v1/users/{user}/model/history")).json()["items"]
    assert [(each["generation"], each["training_id"], each["cause"]) for each in history[:2]] == [
        (5, newest["training_id"], "training"),
        (4, old["training_id"], "rollback"),
    ]


async def test_a_rollback_is_told_to_whoever_subscribes(stack, user):
    for number, version in enumerate((RECORDED, SELF_STARTED)):
        training = f"t{number}-{user}"
        await register(stack, training, user, f"acme/{user}")
        await succeed(stack, training, user, version)
        await stack.until_stage(training, "active")

    async with stack.broker.subscribed("modelswap.events", "model.activated.v1") as queue:
        rolled = await say(stack, f"/v1/users/{user}/model/rollback", 200, {"reason": "too dark"})
        message = await told(stack, queue, user, 3)
    async with asyncio.timeout(60):
        while not (noted := (await stack.ops.get("/v1/audit", params={"target": f"user {user}"})).json()["items"]):
            await asyncio.sleep(0.05)

    event = json.loads(message.body)
    assert [(each["actor"], each["action"], each["reason"]) for each in noted] == [
        ("api", "model.rolled_back", "too dark")
    ]
    assert rolled["reference"] == f"acme/{user}:{RECORDED}"
    assert (event["model"], event["cause"]) == (rolled["reference"], "rollback")
    assert event["previous"] == f"acme/{user}:{SELF_STARTED}"


async def test_every_public_event_is_sent_as_the_documents_say(stack, simulator, user):
    sent: dict[str, Message] = {}
    async with stack.broker.subscribed(EVENTS_EXCHANGE, "#") as queue:
        late = f"late-{user}"
        asked = {"user_id": user, "destination": f"acme/{user}", "start": False}
        webhook = (await say(stack, "/v1/trainings", 201, asked))["webhook_url"]
        new = await start(stack, user)
        await stack.until_stage(new["training_id"], "active")
        await succeed(stack, late, user, webhook=webhook)
        await stack.until_stage(late, "superseded")
        await say(stack, f"/v1/users/{user}/model/withdraw", 200, {"reason": "not hers"})
        order(simulator, output="no version at all")
        vain = await start(stack, user)
        await stack.until_stage(vain["training_id"], "unverified")
        trainings = {late, new["training_id"], vain["training_id"]}
        while sent.keys() != PUBLIC.keys():
            message = await stack.broker.wait_for(queue)
            if json.loads(message.body)["training_id"] in trainings:
                sent[message.headers["ce-type"].removeprefix(TYPE_PREFIX)] = message

    for key, message in sent.items():
        body = json.loads(message.body)
        jsonschema_rs.validate(event_schema(PUBLIC[key]), body)
        jsonschema_rs.validate(headers_schema(), message.headers)
        assert body["user_id"] == user
        # What the tests of other languages read is still what is sent.
        captured = json.loads((CAPTURED / f"{key}.json").read_text())
        assert (captured["headers"].keys(), captured["body"].keys()) == (message.headers.keys(), body.keys()), message
