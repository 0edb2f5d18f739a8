"""What every fault of Replicate's comes to: for the user, whose old model stays, for the operator, and on the bill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import pytest

from services.simulator.faults import ApiFaultOrder, Behaviour, FaultOrder
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from shared.contract.envelope import wrap
from shared.contract.events import ModelReady, TrainingSucceeded
from shared.contract.identity import ModelName
from shared.contract.preview import Answer, Message
from shared.runtime.clock import now
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import start
from tests.servers import Urls
from tests.stack import API_TOKEN, Stack, plain_client

#: Simulated seconds; that is a fifth of a real one.
SHORT: Final = 60
SETTINGS: Final = {
    "MODELSWAP_VERIFY_LEVEL": "predict",
    "MODELSWAP_VERIFY_PATIENCE_SECONDS": "3",
    # Simulated as well, so it comes while a verification is patient.
    "MODELSWAP_VERIFY_CANCEL_AFTER_SECONDS": "300",
}

#: Of a retrain: what goes wrong · the user sees (stage, failure) · the operator sees (a dead letter) · runs paid for.
#: An empty failure means that the new model is in use, any other that the old one still is.
OF_A_TRAINING: Final[dict[str, tuple[dict[str, Any], str, str, str, int]]] = {
    "nothing": ({}, "active", "", "", 1),
    "version is 404 at first": ({"version_late_calls": 3}, "active", "", "", 1),
    "version comes late": ({"version_late_seconds": 300}, "active", "", "", 1),
    "version of another owner": (
        {"foreign_version": True},
        *("unverified", "destination_mismatch", "destination_mismatch", 0),
    ),
    "version takes no prompt": ({"no_prompt": True}, "unverified", "no_prompt", "no_prompt", 0),
    "no version, only weights": (
        {"output": {"weights": "$weights"}},
        *("unverified", "weights_only", "weights_only", 0),
    ),
    "prediction never starts": (
        {"prediction": Behaviour.NEVER_STARTS},
        *("unverified", "run_cut_off", "run_cut_off", 9),
    ),
    "weights gone": ({"prediction": Behaviour.WEIGHTS_GONE}, "unverified", "run_cut_off", "run_cut_off", 9),
    "prediction fails": ({"prediction": Behaviour.FAILS}, "unverified", "run_failed", "run_failed", 1),
    "blank image": ({"prediction": Behaviour.BLANK}, "unverified", "blank_image", "blank_image", 1),
    "safety refusal": ({"prediction": Behaviour.UNSAFE}, "unverified", "run_filtered", "run_filtered", 6),
    "training fails": ({"outcome": Status.FAILED}, "failed", "training_failed", "", 0),
    "training is canceled": ({"outcome": Status.CANCELED}, "canceled", "training_canceled", "", 0),
}


@dataclass(frozen=True)
class Of:
    """A fault of calls, and what it makes the operator see: why the extractor pauses, if it does."""

    fault: str
    route: str
    how: dict[str, Any]
    paused: str = ""
    at_least_seconds: float = 0
    order: ApiFaultOrder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", ApiFaultOrder.model_validate({"route": self.route, **self.how}))


#: The user's retrain ends well after each of these, a little later.
THAT_PASS: Final = [
    Of("422 at first", "versions.get", {"status": 422, "next": 2}),
    Of("422 for a run at first", "predictions.create", {"status": 422, "next": 2}),
    Of(
        "429 with a header",
        *("predictions.create", {"status": 429, "retry_after_header": "1"}, "replicate_throttled"),
        at_least_seconds=1,
    ),
    Of(
        "429 with a body",
        *("versions.get", {"status": 429, "retry_after_body": 1}, "replicate_throttled"),
        at_least_seconds=1,
    ),
    Of("500 three times", "predictions.get", {"status": 500, "next": 3}, "replicate_down"),
    Of("slow", "versions.get", {"delay_seconds": 2}),
    # The address of a picture is the model's word: nobody else waits for it.
    Of("a picture out of reach", "delivery", {"status": 503, "next": 2}),
    # It is found in Replicate's list.
    Of("a run's answer is lost", "predictions.create", {"status": 502, "takes_effect": True}, "replicate_down"),
]
#: Nobody's training fails of these, however long they last: the extractor waits for the operator.
THAT_STAY: Final = [
    Of("401", "versions.get", {"status": 401, "next": 10_000}, "replicate_unauthorized"),
    Of("402", "predictions.create", {"status": 402, "next": 10_000}, "replicate_billing"),
    Of("403", "versions.get", {"status": 403, "next": 10_000}, "replicate_forbidden"),
]


@pytest.fixture(scope="module")
async def proving(servers: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Simulator]]:
    """A product that runs each model before it is used."""
    folder = tmp_path_factory.mktemp("proving")
    async with open_stack(folder, servers, settings=SETTINGS) as opened:
        yield opened


@dataclass
class Retrain:
    """The second training of a user who has a model, and who asks for it all the time."""

    stack: Stack
    simulator: Simulator
    user: str = field(default_factory=lambda: f"user-{uuid4().hex[:8]}")
    old: str = ""
    training_id: str = ""
    #: Every model that the user was answered until the end, in order.
    seen: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        self.order()
        first = await start(self.stack, self.user)
        await self.stack.until_stage(first["training_id"], "active")
        self.old = await self.model()
        self.seen.append(self.old)

    def order(self, **faults: Any) -> None:
        order = {"destination": f"acme/{self.user}", "duration_seconds": SHORT, **faults}
        self.simulator.order(FaultOrder.model_validate(order))

    async def request(self) -> None:
        self.training_id = (await start(self.stack, self.user))["training_id"]

    async def end(self) -> dict[str, Any]:
        async with asyncio.timeout(90):
            while True:
                training = await self.stack.training(self.training_id)
                model = await self.model()
                if model != self.seen[-1]:
                    self.seen.append(model)
                if training["stage"] not in ("requested", "running", "verifying"):
                    return training
                await asyncio.sleep(0.2)

    async def model(self) -> str:
        model = await self.stack.model(self.user)
        assert model is not None, f"{self.user} has no model any more"
        return str(model["reference"])

    @property
    def new(self) -> str:
        return next(
            f"acme/{self.user}:{training.makes}"
            for training in self.simulator.world.trainings()
            if training.id == self.training_id
        )

    @property
    def runs(self) -> int:
        """How many predictions of the new model were paid for."""
        version = self.new.partition(":")[2]
        return sum(each.version == version for each in self.simulator.world._predictions.values())

    @property
    def dead_letter(self) -> str:
        """With which error the extractor set the training aside."""
        lines = self.stack.processes["extractor"].lines()
        errors = [
            line["error"]
            for line in lines
            if line["event"] == "delivery.dead_lettered" and line.get("training_id") == self.training_id
        ]
        assert len(errors) <= 1
        return errors[0] if errors else ""


async def test_every_fault_of_a_training_comes_to_what_the_table_says(proving: tuple[Stack, Simulator]):
    retrains = {name: Retrain(*proving) for name in OF_A_TRAINING}
    await asyncio.gather(*(retrain.begin() for retrain in retrains.values()))
    for name, (faults, *_) in OF_A_TRAINING.items():
        retrains[name].order(**faults)
    await asyncio.gather(*(retrain.request() for retrain in retrains.values()))

    ends = await asyncio.gather(*(retrain.end() for retrain in retrains.values()))

    said = {}
    for (name, retrain), end in zip(retrains.items(), ends, strict=True):
        failure = end["failure"]["code"] if end["failure"] else ""
        said[name] = (OF_A_TRAINING[name][0], end["stage"], failure, retrain.dead_letter, retrain.runs)
        assert retrain.seen == ([retrain.old] if failure else [retrain.old, retrain.new]), name
    assert said == OF_A_TRAINING


@pytest.mark.parametrize("fault", THAT_PASS, ids=lambda fault: fault.fault)
async def test_a_fault_that_passes_costs_the_user_nothing_but_time(proving: tuple[Stack, Simulator], fault: Of):
    retrain = Retrain(*proving)
    await retrain.begin()
    retrain.order()
    before = len(pauses(retrain.stack))
    retrain.simulator.world.orders.add_for_calls(fault.order)

    await retrain.request()
    end = await retrain.end()

    seen = pauses(retrain.stack)[before:]
    assert (end["stage"], end["failure"], retrain.dead_letter) == ("active", None, "")
    assert retrain.seen == [retrain.old, retrain.new]
    assert {pause.reason for pause in seen} == ({fault.paused} if fault.paused else set())
    assert sum(pause.seconds for pause in seen) >= fault.at_least_seconds
    assert retrain.runs == 1


@pytest.mark.parametrize("fault", THAT_STAY, ids=lambda fault: fault.fault)
async def test_a_refused_token_pauses_the_extractor(proving: tuple[Stack, Simulator], fault: Of):
    retrain = Retrain(*proving)
    await retrain.begin()
    retrain.order()
    before = len(pauses(retrain.stack))
    retrain.simulator.world.orders.add_for_calls(fault.order)

    await retrain.request()
    reason = await until_paused(retrain.stack)
    # State has heard of the end by a queue of its own, maybe later than the extractor.
    await retrain.stack.until_stage(retrain.training_id, "verifying")
    meanwhile = await retrain.model()
    retrain.simulator.world.orders.clear()
    end = await retrain.end()
    await retrain.stack.until_ready("extractor")

    assert fault.fault in reason
    assert "Replicate" in reason
    assert meanwhile == retrain.old
    assert {pause.reason for pause in pauses(retrain.stack)[before:]} == {fault.paused}
    assert (end["stage"], end["failure"], retrain.dead_letter) == ("active", None, "")
    assert retrain.seen == [retrain.old, retrain.new]
    assert retrain.runs == 1


async def test_a_killed_extractor_pays_for_one_run(proving: tuple[Stack, Simulator]):
    retrain = Retrain(*proving)
    await retrain.begin()
    retrain.order()
    waiting = ApiFaultOrder.model_validate({"route": "predictions.get", "delay_seconds": 60})
    retrain.simulator.world.orders.add_for_calls(waiting)
    asked = retrain.simulator.calls.copy()

    await retrain.request()
    async with asyncio.timeout(60):
        while not any(name == "predictions.get" for name, _ in retrain.simulator.calls - asked):
            await asyncio.sleep(0.02)
    retrain.stack.processes["extractor"].kill()
    retrain.stack.processes["extractor"].start()
    end = await retrain.end()
    await retrain.stack.until_ready("extractor")

    assert (end["stage"], end["failure"]) == ("active", None)
    assert retrain.seen == [retrain.old, retrain.new]
    assert retrain.runs == 1


async def test_a_preview_knows_what_was_paid_for_and_pays_for_nothing(proving: tuple[Stack, Simulator]):
    retrain = Retrain(*proving)
    await retrain.begin()
    event = TrainingSucceeded(training_id="t1", destination=ModelName("acme", retrain.user), output=retrain.old)
    message = Message.of(wrap(event, source="test", now=now()))
    before = len(retrain.simulator.world._predictions)

    async with plain_client(headers={"Authorization": f"Bearer {API_TOKEN}"}) as client:
        said = await client.post(f"{retrain.stack.url('extractor')}/preview", json=message.model_dump(mode="json"))

    (follows,) = Answer.model_validate_json(said.content).messages
    ready = follows.decode().event
    assert isinstance(ready, ModelReady)
    assert (str(ready.model), ready.evidence.checks) == (retrain.old, ("exists", "schema", "predict"))
    assert len(retrain.simulator.world._predictions) == before


@dataclass(frozen=True)
class Paused:
    """Why the extractor paused, and for how long."""

    reason: str
    seconds: float


def pauses(stack: Stack) -> list[Paused]:
    """Every pause that the extractor logged, in order."""
    found: list[Paused] = []
    began: tuple[str, datetime] | None = None
    for line in stack.processes["extractor"].lines():
        at = datetime.fromisoformat(line["timestamp"])
        if line["event"] == "consumer.paused" and began is None:
            began = line["error"], at
        if line["event"] == "consumer.resumed" and began is not None:
            found.append(Paused(began[0], (at - began[1]).total_seconds()))
            began = None
    return found


async def until_paused(stack: Stack) -> str:
    """What the extractor says it waits for."""
    async with asyncio.timeout(60), plain_client() as client:
        while (answer := await client.get(f"{stack.url('extractor')}/readyz")).is_success:
            await asyncio.sleep(0.05)
    reason: str = answer.json()["checks"]["consumer"]
    return reason
