"""One training is one `grep`: every fact about it is a line at info, in every process, with its ids."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from services.simulator.faults import ApiFaultOrder
from services.simulator.simulator import Simulator
from shared.replicate.signature import sign
from shared.runtime.clock import now
from tests.end_to_end.conftest import SELF_STARTED
from tests.end_to_end.test_walk import start
from tests.stack import ROOT, SERVICES, WEBHOOK_SECRET, Stack, plain_client, post

TRAINER: Final = f"ostris/flux-dev-lora-trainer:{'e' * 64}"
TRACE: Final = uuid4().hex
PAGE: Final = (ROOT / "deploy/README.md").read_text()
#: What the walk of one training is made of: process, name of the line, routing key.
WALK: Final = [
    ("state", "training.registered", None),
    ("receiver", "webhook.accepted", "training.succeeded.v1"),
    ("extractor", "model.verified", "training.succeeded.v1"),
    ("extractor", "delivery.handled", "training.succeeded.v1"),
    ("state", "delivery.handled", "training.succeeded.v1"),
    ("state", "model.swapped", "model.activated.v1"),
    ("state", "delivery.handled", "model.ready.v1"),
    ("state", "event.published", "model.activated.v1"),
    ("notifier", "delivery.handled", "model.ready.v1"),
    ("notifier", "delivery.handled", "model.activated.v1"),
]


async def register(stack: Stack, user: str) -> tuple[str, str]:
    """Register a training that the product starts by itself: its ref, and where its webhooks go to."""
    asked = {"user_id": user, "destination": f"acme/{user}", "start": False}
    answer = await post(stack.api, "/v1/trainings", asked)
    answer.raise_for_status()
    registered = answer.json()
    return registered["ref"], registered["webhook_url"]


async def complete(stack: Stack, training_id: str, user: str, webhook_url: str) -> None:
    """Post the webhook of a training that succeeded, as part of the trace `TRACE`."""
    document = {
        "id": training_id,
        "status": "succeeded",
        "output": {"version": f"acme/{user}:{SELF_STARTED}"},
        "webhook": webhook_url,
    }
    body, at, message_id = json.dumps(document).encode(), int(now().timestamp()), f"msg_{uuid4().hex}"
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(WEBHOOK_SECRET, message_id, at, body),
        "traceparent": f"00-{TRACE}-{'b' * 16}-01",
    }
    address = urlsplit(webhook_url)
    async with plain_client(base_url=stack.url("receiver")) as client:
        answer = await client.post(f"{address.path}?{address.query}", content=body, headers=headers)
    assert answer.status_code == 202, answer.text


def lines(stack: Stack, user: str, training_id: str) -> list[dict[str, Any]]:
    """Every line of every process that names the training or its user."""
    found = (line for name in SERVICES for line in stack.processes[name].lines())
    return [line for line in found if line.get("training_id") == training_id or line.get("user_id") == user]


async def until_logged(
    stack: Stack, user: str, training_id: str, *facts: tuple[str, str, str | None]
) -> list[dict[str, Any]]:
    """Wait until each of *facts* was logged: a line may follow what it tells of."""
    async with asyncio.timeout(60):
        while True:
            found = lines(stack, user, training_id)
            if set(facts) <= {fact(line) for line in found}:
                return found
            await asyncio.sleep(0.05)


def fact(line: dict[str, Any]) -> tuple[str, str, str | None]:
    return line["service"], line["event"], line.get("routing_key")


async def test_each_fact_of_a_training_is_one_line_with_its_ids(stack: Stack):
    user, training_id = f"user-{uuid4().hex[:8]}", f"t{uuid4().hex[:25]}"

    ref, webhook_url = await register(stack, user)
    await complete(stack, training_id, user, webhook_url)
    await stack.until_stage(ref, "active")
    found = await until_logged(stack, user, training_id, *WALK)

    assert sorted(WALK, key=str) == sorted(map(fact, found), key=str)
    assert {line["level"] for line in found} == {"info"}
    walked = [line for line in found if line["event"] != "training.registered"]
    assert {line["trace_id"] for line in walked} == {TRACE}
    assert all(line["message_id"] for line in walked)
    (swapped,) = [line for line in found if line["event"] == "model.swapped"]
    assert (swapped["previous"], swapped["generation"]) == (None, 1)
    assert swapped["model"] == f"acme/{user}:{SELF_STARTED}"


async def test_a_retry_asks_nobody_to_act(stack: Stack, simulator: Simulator):
    user, training_id = f"user-{uuid4().hex[:8]}", f"t{uuid4().hex[:25]}"
    simulator.world.orders.add_for_calls(ApiFaultOrder(route="versions.get", status=404, next=1))

    ref, webhook_url = await register(stack, user)
    await complete(stack, training_id, user, webhook_url)
    await stack.until_stage(ref, "active")
    found = await until_logged(stack, user, training_id, *WALK)

    (retried,) = [line for line in found if fact(line) not in WALK]
    assert (retried["service"], retried["event"], retried["error"], retried["attempt"]) == (
        *("extractor", "delivery.retried"),
        *("version_not_there_yet", 1),
    )
    assert {line["level"] for line in found} == {"info"}


async def test_a_rollback_is_one_line_that_says_why(stack: Stack):
    user = f"user-{uuid4().hex[:8]}"
    for _ in range(2):
        begun = await start(stack, user)
        await stack.until_stage(begun["training_id"], "active")
    current = await stack.model(user)
    assert current is not None

    answer = await stack.api.post(f"/v1/users/{user}/model/rollback", json={"reason": "blurred"})

    assert answer.status_code == 200, answer.text
    rolled_back = ("state", "model.rolled_back", "model.activated.v1")
    found = await until_logged(stack, user, begun["training_id"], rolled_back)
    (line,) = [line for line in found if line["event"] == "model.rolled_back"]
    assert (line["reason"], line["generation"], line["previous"]) == ("blurred", 3, current["reference"])


async def test_every_line_has_the_documented_keys(stack: Stack):
    said = re.search(r"Every line has ([^;]*);", PAGE)
    assert said is not None
    documented = set(re.findall(r"`(\w+)`", said[1]))

    lines = {name: stack.processes[name].lines() for name in SERVICES}

    assert documented == {"timestamp", "level", "service", "event"}
    assert all(lines.values())
    for name, found in lines.items():
        assert {line["service"] for line in found} == {name}
        assert all(documented <= line.keys() for line in found)
        assert {line["event"] for line in found if not re.fullmatch(r"[a-z_]+\.[a-z_]+", line["event"])} == set()
        assert all("routing_key" in line for line in found if "message_id" in line and "queue" in line)
