"""Replicate tells us nothing: every training comes to its right end all the same, within few calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from services.simulator.faults import ApiFaultOrder, FaultOrder, WebhookEvent
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import TRAINER, start
from tests.servers import Urls
from tests.stack import Stack

TRAININGS: Final = 50
_HURRY: Final = {
    "MODELSWAP_RECONCILE_AFTER_SECONDS": "2",
    "MODELSWAP_RECONCILE_EVERY_SECONDS": "0.5",
    "MODELSWAP_RECONCILE_CALLS_PER_MINUTE": "600",
}


@contextlib.asynccontextmanager
async def silent_stack(servers: Urls, folder: Path, **settings: str) -> AsyncIterator[tuple[Stack, Simulator]]:
    """A product that no webhook ever reaches."""
    async with open_stack(folder, servers, settings=_HURRY | settings) as (stack, simulator):
        simulator.order(FaultOrder(drop=frozenset(WebhookEvent), next=10_000))
        yield stack, simulator


async def reconciliation(stack: Stack) -> dict[str, Any]:
    answer = await stack.ops.get("/v1/reconciliation")
    answer.raise_for_status()
    shown: dict[str, Any] = answer.json()
    return shown


async def test_fifty_trainings_without_webhooks_end_right(servers: Urls, tmp_path: Path):
    async with silent_stack(servers, tmp_path) as (stack, simulator):
        ends = [Status.FAILED if number % 5 == 0 else Status.SUCCEEDED for number in range(TRAININGS)]
        for number, end in enumerate(ends):
            simulator.order(
                FaultOrder(
                    destination=f"acme/user-{number}",
                    outcome=end,
                    version_late_calls=number % 3,
                    duration_seconds=300 + 20 * number,
                )
            )
        begun = [await start(stack, f"user-{number}") for number in range(TRAININGS)]
        await stack.until_stage(begun[0]["training_id"], "failed")

        stack.processes["ops"].kill()
        stack.processes["ops"].start()
        stages = {Status.FAILED: "failed", Status.SUCCEEDED: "active"}
        for training, end in zip(begun, ends, strict=True):
            await stack.until_stage(training["training_id"], stages[end])

        models = {number: await stack.model(f"user-{number}") for number in range(TRAININGS)}
        gets = {name: count for (route, name), count in simulator.calls.items() if route == "trainings.get"}
        shown = await reconciliation(stack)
        warned = [line for line in stack.processes["ops"].lines() if line["event"] == "webhooks.do_not_arrive"]
    assert {number: model is not None for number, model in models.items()} == {
        number: end is Status.SUCCEEDED for number, end in enumerate(ends)
    }
    assert max(gets.values(), default=0) <= 3
    assert not simulator.attempts
    assert shown["recovered"]["last_hour"] == TRAININGS
    assert shown["webhooks_seem_lost"] is True
    assert warned != []


async def test_a_start_with_a_lost_answer_is_matched_to_its_training(servers: Urls, tmp_path: Path):
    async with silent_stack(servers, tmp_path) as (stack, simulator):
        simulator.world.orders.add_for_calls(ApiFaultOrder(route="trainings.create", status=502, takes_effect=True))
        body = {"user_id": "user-1", "destination": "acme/user-1", "trainer": TRAINER, "input": {"steps": 100}}

        lost = await stack.api.post("/v1/trainings", json=body)
        ended = await stack.until_stage(lost.json()["ref"], "active")

        (run,) = simulator.world.trainings()
    assert (lost.status_code, lost.json()["training_id"]) == (202, None)
    assert (ended["training_id"], ended["current"]) == (run.id, True)


async def test_a_never_started_training_ends_and_frees_its_key(servers: Urls, tmp_path: Path):
    async with silent_stack(servers, tmp_path) as (stack, simulator):
        body = {"user_id": "user-1", "destination": "acme/user-1", "trainer": TRAINER, "input": {"steps": 100}}
        key = {"Idempotency-Key": str(uuid4())}
        old = await stack.until_stage((await start(stack, "user-1"))["training_id"], "active")
        simulator.world.orders.add_for_calls(ApiFaultOrder(route="trainings.create", status=502))

        lost = await stack.api.post("/v1/trainings", json=body, headers=key)
        failed = await stack.until_stage(lost.json()["ref"], "failed")
        kept = await stack.model("user-1")
        again = await stack.api.post("/v1/trainings", json=body, headers=key)

    assert lost.status_code == 202
    assert failed["failure"]["code"] == "not_started"
    assert kept is not None
    assert kept["training_id"] == old["training_id"]
    assert (again.status_code, again.json()["ref"] == failed["ref"]) == (201, False)
