"""A training that was started elsewhere is registered: before it ends, after that, and while Replicate is away."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx
import pytest

from services.simulator.faults import ApiFaultOrder, FaultOrder
from services.simulator.job import Status
from services.simulator.requests import TrainingRequest
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from tests.end_to_end.test_walk import TRAINER
from tests.stack import Stack, insist


@pytest.fixture
def user() -> str:
    """A user whom nobody knows yet."""
    return f"user-{uuid4().hex[:8]}"


async def ended(simulator: Simulator, user: str, *, outcome: Status = Status.SUCCEEDED) -> Training:
    """A training that told nobody how it ended."""
    destination = f"acme/{user}"
    simulator.order(FaultOrder(destination=destination, outcome=outcome, duration_seconds=1))
    name, _, version = TRAINER.partition(":")
    request = TrainingRequest(destination=destination, input={"steps": 1000})
    training = simulator.world.create_training(
        request, trainer=name, version=version, api_url="http://127.0.0.1", now=simulator.now()
    )
    assert training is not None
    while not training.has_ended(training.seconds(simulator.now())):
        await asyncio.sleep(0.01)
    return training


async def register(stack: Stack, training: Training, user: str) -> httpx.Response:
    body = {"user_id": user, "destination": training.destination}
    return await insist(lambda: stack.api.put(f"/v1/trainings/{training.id}", json=body))


async def test_what_ended_before_it_was_registered_becomes_active(stack: Stack, simulator: Simulator, user: str):
    training = await ended(simulator, user)

    answer = await register(stack, training, user)

    became = await stack.until_stage(training.id, "active")
    assert answer.status_code == 201
    assert became["reference"] == f"acme/{user}:{training.makes}"


async def test_what_failed_before_it_was_registered_has_failed(stack: Stack, simulator: Simulator, user: str):
    training = await ended(simulator, user, outcome=Status.FAILED)

    await register(stack, training, user)

    failed = await stack.until_stage(training.id, "failed")
    assert failed["failure"]["code"] == "training_failed"


async def test_a_registration_during_an_outage_is_completed_later(stack: Stack, simulator: Simulator, user: str):
    training = await ended(simulator, user)
    simulator.world.orders.add_for_calls(ApiFaultOrder(route="trainings.get", status=503, next=2))

    answer = await register(stack, training, user)

    became = await stack.until_stage(training.id, "active")
    assert (answer.status_code, answer.json()["stage"]) == (202, "requested")
    assert became["reference"] == f"acme/{user}:{training.makes}"
