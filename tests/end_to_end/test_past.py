"""What would today's parser make of the past, and what does a second look at it come to?"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from services.simulator.faults import FaultOrder
from services.simulator.simulator import Simulator
from tests.end_to_end.test_walk import start
from tests.shell import Shell
from tests.stack import Stack


@pytest.fixture
def shell(stack: Stack) -> Shell:
    return Shell({**stack.environment, "MODELSWAP_OPS_URL": stack.url("ops")})


async def until_tried(shell: Shell, training_ids: set[str]) -> dict[str, Any]:
    """What `dead-letters try` says, as soon as the letters of these trainings are archived."""
    async with asyncio.timeout(60):
        while True:
            said = await shell.json("dead-letters", "try", "--since", "1h")
            found = {each["training_id"]: each for each in said["letters"] if each["training_id"] in training_ids}
            if set(found) == training_ids:
                return found
            await asyncio.sleep(0.2)


async def test_failed_outputs_are_tried_and_retried_for_a_reason(shell: Shell, stack: Stack, simulator: Simulator):
    user = f"past-{uuid4().hex[:8]}"
    simulator.order(FaultOrder(destination=f"acme/{user}-late", version_late_calls=10_000))
    simulator.order(FaultOrder(destination=f"acme/{user}-none", output={"weights": "$weights"}))
    late, none, good = [(await start(stack, f"{user}-{kind}"))["training_id"] for kind in ("late", "none", "good")]
    await stack.until_stage(late, "unverified")
    await stack.until_stage(none, "unverified")
    await stack.until_stage(good, "active")

    tried = await until_tried(shell, {late, none})
    dry = await shell.json("trainings", "re-extract", "--since", "1h", "--dry-run")
    before = await stack.training(late)
    maker = simulator.world.find_training(late)
    assert maker is not None
    simulator.world._asked[maker.makes] = 10_000
    asked = await shell.json("trainings", "re-extract", "--since", "1h", "--reason", "it was late", "--yes")
    after = await stack.until_stage(late, "active")
    _, _, said = await shell.run(
        "trainings", "re-extract", "--since", "1h", "--reason", "again", "--yes", "--limit", "1"
    )
    audit = (await stack.ops.get("/v1/audit", params={"action": "training.retry_extraction"})).json()["items"]

    assert {name: each["today"] for name, each in tried.items()} == {late: "now found", none: "still fails"}
    assert tried[late]["model_today"] == after["reference"] == f"acme/{user}-late:{maker.makes}"
    verdicts = {each["training_id"]: each["today"] for each in dry["trainings"]}
    assert {name: verdicts[name] for name in (late, none, good)} == {
        late: "now found",
        none: "still fails",
        good: "same",
    }
    assert before["stage"] == "unverified"
    assert late in asked["asked"]
    assert none not in asked["asked"]
    assert said == "the newest 1 unverified trainings were looked at; for more, --limit\n"
    assert [(each["actor"], each["reason"]) for each in audit if late in each["target"]] == [("olga", "it was late")]


async def test_the_status_says_whether_webhooks_arrive(shell: Shell):
    shown = await shell.json("reconcile", "status")
    code, said, _ = await shell.run("reconcile", "status")

    assert (shown["webhooks_seem_lost"], code) == (False, 0)
    assert "recovered" in said


async def test_without_a_reason_nothing_is_looked_at_again(shell: Shell):
    code, _, said = await shell.run("trainings", "re-extract", "--since", "1h")

    assert code == 2
    assert "say why" in said
