"""
Genuine webhooks are posted to the address of another user's training: nobody's model comes from it.

Replicate signs the body of a webhook and not its address, so Bob's signed bodies can be posted to Alice's address. Both
have trainings whose ids are not known yet: the most that such an address could be believed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx
import pytest

from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.job import Status
from services.simulator.requests import TrainingRequest
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from shared.contract.topology import EXTRACTOR_QUEUE, STATE_QUEUE
from tests.end_to_end.test_walk import TRAINER, signed_headers
from tests.stack import Stack, plain_client, post

pytestmark = pytest.mark.attack

_EVENTS: Final = frozenset({WebhookEvent.START, WebhookEvent.COMPLETED})


@dataclass
class Person:
    """A user who starts a training at Replicate, with the address that modelswap handed out for it."""

    user: str
    destination: str
    ref: str
    address: str

    @property
    def path(self) -> str:
        return httpx.URL(self.address).raw_path.decode()

    def train(
        self, simulator: Simulator, *, outcome: Status = Status.SUCCEEDED, webhook: str | None = None
    ) -> Training:
        """Run the training at Replicate, which posts to that address, or to *webhook* instead."""
        simulator.order(FaultOrder(destination=self.destination, outcome=outcome))
        name, _, version = TRAINER.partition(":")
        request = TrainingRequest(
            destination=self.destination,
            input={"steps": 1000},
            webhook=self.address if webhook is None else webhook,
            webhook_events_filter=_EVENTS,
        )
        training = simulator.world.create_training(
            request, trainer=name, version=version, api_url="http://127.0.0.1", now=simulator.now()
        )
        assert training is not None
        return training


async def person(stack: Stack, name: str, destination: str | None = None) -> Person:
    user = f"{name}-{uuid4().hex[:8]}"
    into = destination or f"acme/{user}"
    answer = await post(stack.api, "/v1/trainings", {"user_id": user, "destination": into, "start": False})
    assert answer.status_code == 201, answer.text
    return Person(user, into, answer.json()["ref"], answer.json()["webhook_url"])


def bodies(training: Training) -> list[bytes]:
    """What Replicate signs of *training*: its start, a log and its end."""
    moments = (training.life.starts, training.last_moment, training.life.ends)
    return [training.webhook_body(moment) for moment in moments]


def without_webhook(body: bytes) -> bytes:
    """The same from a Replicate that does not say where it posts to."""
    return json.dumps({name: value for name, value in json.loads(body).items() if name != "webhook"}).encode()


@pytest.fixture
async def door(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever posts to the receiver, with patience."""
    async with plain_client(base_url=stack.url("receiver")) as client:
        yield client


async def refused(door: httpx.AsyncClient) -> float:
    """How many webhooks were counted as another training's."""
    text = (await door.get("/metrics")).text
    (line,) = (line for line in text.splitlines() if line.startswith('modelswap_webhooks_total{result="foreign_ref"}'))
    return float(line.split()[-1])


async def post_all(client: httpx.AsyncClient, posts: Sequence[bytes], path: str) -> list[int]:
    """Post one after the other; how each was answered."""
    headers = [signed_headers(body, f"msg_{uuid4().hex}") for body in posts]
    return [
        (await client.post(path, content=body, headers=signature)).status_code
        for body, signature in zip(posts, headers, strict=True)
    ]


@pytest.mark.parametrize("destinations", ["shared", "separate"])
async def test_no_foreign_webhook_changes_anything(
    stack: Stack, simulator: Simulator, door: httpx.AsyncClient, destinations: str
):
    place = f"acme/shared-{uuid4().hex[:8]}" if destinations == "shared" else None
    orders = list(itertools.permutations(range(4)))
    bob, unlucky, *alices = [
        await person(stack, name, place) for name in ("bob", "unlucky", *("alice" for _ in orders))
    ]
    counted = await refused(door)
    bobs, failing = bob.train(simulator), unlucky.train(simulator, outcome=Status.FAILED)
    signed = [*bodies(bobs), bodies(failing)[-1]]

    async def attack(alice: Person, order: Sequence[int]) -> list[int]:
        said = [signed[which] for which in order]
        silent = [without_webhook(body) for body in said]
        return await post_all(door, said + silent if order[0] % 2 else silent + said, alice.path)

    answers = await asyncio.gather(*map(attack, alices, orders))
    ended = await stack.until_stage(bob.ref, "active")
    failed = await stack.until_stage(unlucky.ref, "failed")
    for queue in (EXTRACTOR_QUEUE, STATE_QUEUE):
        await stack.broker.until(queue, 0)

    assert [sorted(each) for each in answers] == [[202] * 4 + [401] * 4] * len(orders)
    assert await refused(door) - counted == 4 * len(orders)
    assert (ended["training_id"], ended["reference"]) == (bobs.id, f"{bob.destination}:{bobs.makes}")
    assert (failed["training_id"], await stack.model(unlucky.user)) == (failing.id, None)
    for alice in alices:
        kept = await stack.training(alice.ref)
        assert (kept["stage"], kept["training_id"], await stack.model(alice.user)) == ("requested", None, None)

    own = [alice.train(simulator) for alice in alices]
    for alice, training in zip(alices, own, strict=True):
        became = await stack.until_stage(alice.ref, "active")
        assert (became["training_id"], became["reference"]) == (training.id, f"{alice.destination}:{training.makes}")


async def test_a_started_training_keeps_its_row(stack: Stack, simulator: Simulator, door: httpx.AsyncClient):
    bob = await person(stack, "bob", f"acme/shared-{uuid4().hex[:8]}")
    answer = await stack.api.post(
        "/v1/trainings",
        json={"user_id": f"alice-{bob.user}", "destination": bob.destination, "trainer": TRAINER, "input": {}},
    )
    own = simulator.world.find_training(answer.json()["training_id"])
    assert own is not None
    bobs = bob.train(simulator)

    answers = await post_all(
        door, [without_webhook(body) for body in bodies(bobs)], httpx.URL(own.webhook).raw_path.decode()
    )

    ended, other = await stack.until_stage(own.id, "active"), await stack.until_stage(bob.ref, "active")
    assert answers == [202, 202, 202]
    assert (ended["reference"], ended["ref"]) == (f"{bob.destination}:{own.makes}", answer.json()["ref"])
    assert (other["reference"], other["training_id"]) == (f"{bob.destination}:{bobs.makes}", bobs.id)


async def test_an_unconfirmed_training_can_be_registered_later(
    stack: Stack, simulator: Simulator, door: httpx.AsyncClient
):
    alice = await person(stack, "alice", f"acme/shared-{uuid4().hex[:8]}")
    stranger = alice.train(simulator, webhook="")
    await simulator.settled()

    answers = await post_all(door, bodies(stranger)[-1:], alice.path)
    letter = await stack.dead_letter(stranger.id)

    kept = await stack.training(alice.ref)
    assert answers == [202]
    assert letter["error_code"] == "ref_unconfirmed"
    assert f"PUT /v1/trainings/{stranger.id}" in letter["error_text"]
    assert (kept["stage"], kept["training_id"], await stack.model(alice.user)) == ("requested", None, None)


async def test_bodies_without_an_address_are_confirmed_by_replicate(
    stack: Stack, simulator: Simulator, door: httpx.AsyncClient
):
    alice = await person(stack, "alice")
    own = alice.train(simulator, webhook="http://127.0.0.1:9/unreachable" + alice.path)
    await simulator.settled()

    await post_all(door, [without_webhook(body) for body in bodies(own)], alice.path)

    ended = await stack.until_stage(alice.ref, "active")
    assert (ended["training_id"], ended["reference"]) == (own.id, f"{alice.destination}:{own.makes}")
