"""Webhooks were lost and Replicate has removed the outputs: a model is found where it can be nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.simulator.faults import FaultOrder
from services.simulator.requests import TrainingRequest
from tests.end_to_end.test_reconcile import silent_stack
from tests.end_to_end.test_walk import TRAINER
from tests.servers import Urls
from tests.stack import Stack, post


async def start(stack: Stack, user: str, destination: str) -> dict[str, Any]:
    body = {"user_id": user, "destination": destination, "trainer": TRAINER, "input": {"steps": 100}}
    answer = await post(stack.api, "/v1/trainings", body)
    assert answer.status_code == 201, answer.text
    started: dict[str, Any] = answer.json()
    return started


async def test_a_version_found_in_the_list_is_used_if_unambiguous(servers: Urls, tmp_path: Path):
    # A training beside one that is not registered is tried again on the whole ladder.
    async with silent_stack(servers, tmp_path, MODELSWAP_RETRY_DELAYS="500ms,1s,1s,2s") as (stack, simulator):
        simulator.order(FaultOrder(data_removed=True, next=100))
        alone = await start(stack, "alone", "acme/alone")
        active = await stack.until_stage(alone["training_id"], "active")
        # Two of one user, at one destination and at one time: nothing tells which made which.
        twice = [await start(stack, "twice", "acme/twice") for _ in range(2)]
        # Of two users.
        shared = [await start(stack, user, "acme/shared") for user in ("alice", "bob")]
        # Beside one that is not registered, whose version is the only one: ours has made none that is listed. It can
        # have made any version of its time, so it runs when the first training has its model.
        simulator.order(FaultOrder(destination="acme/beside", version_late_seconds=1e9))
        beside = await start(stack, "beside", "acme/beside")
        name, _, version = TRAINER.partition(":")
        strangers = simulator.world.create_training(
            TrainingRequest(destination="acme/beside", input={}),
            trainer=name,
            version=version,
            api_url="http://x",
            now=simulator.now(),
        )

        others = [*twice, *shared, beside]
        ends = [await stack.until_stage(each["training_id"], "unverified") for each in others]
        letters = {each["training_id"]: await stack.dead_letter(each["training_id"]) for each in others}
        models = [await stack.model(user) for user in ("twice", "alice", "bob", "beside")]

        made = simulator.world.find_training(alone["training_id"])
    assert made is not None
    assert strangers is not None
    assert active["reference"] == f"acme/alone:{made.makes}"
    assert models == [None] * 4
    *codes, last = (end["failure"]["code"] for end in ends)
    # Where the other one's version is not listed yet, state knows that it may come.
    assert set(codes) <= {"ambiguous", "model_may_be_anothers", "destination_shared"}
    assert last == "model_may_be_anothers"
    for letter in letters.values():
        assert "modelswap dead-letters edit" in letter["error_text"] or "retry-extraction" in letter["error_text"]
