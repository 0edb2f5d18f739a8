"""A training object of every status, with and without each part that may be missing: it has its effect, no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from uuid import uuid4

import pytest

from shared.contract.topology import EXTRACTOR_QUEUE, PROGRESS_QUEUE, STATE_QUEUE
from tests.end_to_end import test_walk
from tests.end_to_end.conftest import SELF_STARTED
from tests.end_to_end.test_walk import deliver
from tests.stack import Stack

#: What becomes of a training that is registered and then heard of in this status.
STAGES: Final = {
    "starting": "running",
    "processing": "running",
    "succeeded": "active",
    "failed": "failed",
    "canceled": "canceled",
    "aborted": "canceled",
}
BAR: Final = "flux_train_replicate:  12%|█▏        | 120/1000 [01:05<07:56,  1.85it/s]\n"
DATES: Final = {
    "created_at": "2026-11-24T10:00:00.123456789Z",
    "started_at": "2026-11-24T10:01:00.1Z",
    "completed_at": "2026-11-24T10:09:00Z",
}
#: A part is there, is null, or is missing.
LOGS: Final[tuple[Mapping[str, Any], ...]] = ({"logs": BAR}, {"logs": None}, {})
OUTPUTS: Final[tuple[Mapping[str, Any], ...]] = (
    {"output": {"version": f"acme/u-42:{SELF_STARTED}"}},
    {"output": SELF_STARTED},
    {"output": None},
    {},
)
WHEN: Final[tuple[Mapping[str, Any], ...]] = (DATES, dict.fromkeys(DATES), {})


@dataclass(frozen=True)
class Case:
    training: Mapping[str, Any]
    stage: str

    @property
    def id(self) -> str:
        return str(self.training["id"])


def cases(status: str) -> list[Case]:
    made = []
    for number, (logs, output, dates) in enumerate(product(LOGS, OUTPUTS, WHEN)):
        training = {"id": f"{status}{number}x{uuid4().hex[:8]}", "status": status, **logs, **output, **dates}
        # Without an output there is no model to find, whatever else is there.
        without_model = status == "succeeded" and not output.get("output")
        made.append(Case(training, "unverified" if without_model else STAGES[status]))
    return made


async def register(stack: Stack, case: Case) -> None:
    answer = await test_walk.register(stack, case.id, case.id, "acme/u-42")
    answer.raise_for_status()


@pytest.mark.parametrize("status", STAGES)
async def test_every_status_has_its_effect_whatever_is_missing(stack: Stack, status: str):
    all_cases = cases(status)
    seen_before = {name: len(process.lines()) for name, process in stack.processes.items()}
    for case in all_cases:
        await register(stack, case)

    answers = await asyncio.gather(
        *(deliver(stack, json.dumps(case.training).encode(), f"msg-{case.id}") for case in all_cases)
    )
    ends = [await stack.until_stage(case.id, case.stage) for case in all_cases]
    for queue in (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE):
        await stack.broker.until(queue, 0)
    models = [await stack.model(case.id) for case in all_cases]

    def new_lines() -> list[dict[str, Any]]:
        return [line for name, process in stack.processes.items() for line in process.lines()[seen_before[name] :]]

    def dead() -> dict[str, str]:
        return {line["training_id"]: line["error"] for line in new_lines() if line["event"] == "delivery.dead_lettered"}

    unverified = {case.id: "no_version" for case in all_cases if case.stage == "unverified"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            # A line may follow what it tells of.
            while len(dead()) < len(unverified):
                await asyncio.sleep(0.05)
    assert {answer.status_code for answer in answers} == {202}
    assert [end["stage"] for end in ends] == [case.stage for case in all_cases]
    assert [model and model["version"] for model in models] == [
        SELF_STARTED if case.stage == "active" else None for case in all_cases
    ]
    assert dead() == unverified
    assert [line for line in new_lines() if "exception" in line] == []
    assert all(process.is_alive for process in stack.processes.values())
