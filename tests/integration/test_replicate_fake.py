"""One suite for both: what the fake answers, the real client hears from the simulator. So the fake can be trusted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import pytest

from services.extractor.errors import DoesNotWork, Inconclusive, StillRunning
from services.extractor.picture import Flaw, find_flaw
from services.extractor.picture_process import find_flaw_apart
from services.extractor.verify import Gate
from services.simulator.app import running
from services.simulator.faults import Behaviour, FaultOrder
from services.simulator.simulator import Simulator
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.client import Replicate
from shared.replicate.errors import NotThere
from tests.fakes import PROMPT_ONLY, FakeReplicate, Policy, picture

DESTINATION = ModelName("acme", "u-42")
TRAINER = ModelRef("ostris", "flux-dev-lora-trainer", "e" * 64)
NOBODYS = ModelRef("acme", "u-43", "0" * 64)
INPUT = {"prompt": "a lake"}
OUTPUT = "https://replicate.delivery/out-0.png"


class Stage(Protocol):
    """A Replicate where one can arrange what there is, and let time pass."""

    replicate: Any

    async def train(self, behaviour: Behaviour = Behaviour.WORKS, *, no_prompt: bool = False) -> str:
        """The id of a training that succeeded, whose version behaves like that."""
        ...

    async def pass_time(self, seconds: float) -> None: ...


@dataclass
class FakeStage:
    replicate: FakeReplicate

    async def train(self, behaviour: Behaviour = Behaviour.WORKS, *, no_prompt: bool = False) -> str:
        ref = ModelRef(*DESTINATION, "9" * 64)
        self.replicate.add_training("abc", output={"version": str(ref)})
        self.replicate.add_version(ref, {"properties": {"seed": {"type": "integer"}}} if no_prompt else PROMPT_ONLY)
        self.replicate.files[OUTPUT] = picture(blank=behaviour is Behaviour.BLANK)
        match behaviour:
            case Behaviour.NEVER_STARTS | Behaviour.WEIGHTS_GONE:
                end = {"status": "starting"}
            case Behaviour.FAILS:
                end = {"status": "failed", "error": "CUDA out of memory"}
            case Behaviour.UNSAFE:
                end = {"status": "failed", "error": "NSFW content detected"}
            case _:
                end = {"status": "succeeded", "output": OUTPUT}
        self.replicate.will_say = [{"status": "starting"}, end]
        return "abc"

    async def pass_time(self, seconds: float) -> None:
        """Its time passes by being asked."""


class HeldSimulator(Simulator):
    """Its time passes when it is told to."""

    moment = datetime.fromisoformat("2026-11-24T10:00:00Z")

    def now(self) -> datetime:
        return self.moment


@dataclass
class SimulatorStage:
    replicate: Replicate
    simulator: HeldSimulator

    async def train(self, behaviour: Behaviour = Behaviour.WORKS, *, no_prompt: bool = False) -> str:
        self.simulator.order(FaultOrder(prediction=behaviour, no_prompt=no_prompt))
        training = await self.replicate.create_training(TRAINER, DESTINATION, {"steps": 10}, "", ["completed"])
        await self.pass_time(3600)
        return training.id

    async def pass_time(self, seconds: float) -> None:
        self.simulator.moment += timedelta(seconds=seconds)


@pytest.fixture
async def simulated() -> AsyncIterator[SimulatorStage]:
    simulator = HeldSimulator()
    async with running(simulator) as url, Replicate("r8_simulator", url) as replicate:
        yield SimulatorStage(replicate, simulator)


@pytest.fixture(params=["fake", "simulator"])
def stage(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        return FakeStage(FakeReplicate())
    return request.getfixturevalue("simulated")


async def trained(stage: Stage, behaviour: Behaviour = Behaviour.WORKS, *, no_prompt: bool = False) -> ModelRef:
    training = await stage.replicate.get_training(await stage.train(behaviour, no_prompt=no_prompt))
    ref = ModelRef.parse(training.output["version"])
    assert ref is not None
    return ref


def gate_of(stage: Stage) -> Gate:
    passed = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        await stage.pass_time(seconds)

    return Gate(
        stage.replicate,
        Policy(verify_patience_seconds=600),
        find_flaw=find_flaw_apart,
        monotonic=lambda: passed,
        sleep=sleep,
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda replicate: replicate.get_training("nobodys"),
        lambda replicate: replicate.get_version(NOBODYS),
        lambda replicate: replicate.list_versions(NOBODYS.model),
        lambda replicate: replicate.create_prediction(NOBODYS, INPUT, 300),
        lambda replicate: replicate.get_prediction("nobodys"),
    ],
    ids=["training", "version", "model", "run of a version", "run"],
)
async def test_what_is_not_there_is_not_there(stage, ask):
    with pytest.raises(NotThere):
        await ask(stage.replicate)


async def test_a_training_that_succeeded_names_a_version_that_is_there(stage):
    ref = await trained(stage)

    version = await stage.replicate.get_version(ref)

    assert version.id == ref.version
    assert version.input_schema.takes_text("prompt")
    assert ref.model == DESTINATION
    assert [each.id for each in await stage.replicate.list_versions(DESTINATION)] == [ref.version]


async def test_a_run_starts_and_ends_with_a_picture(stage):
    ref = await trained(stage)

    run = await stage.replicate.create_prediction(ref, INPUT, 300)
    begun = await stage.replicate.get_prediction(run.id)
    await stage.pass_time(60)
    ended = await stage.replicate.get_prediction(run.id)

    assert (begun.id, begun.status) == (run.id, "starting")
    assert ended.status == "succeeded"
    url = ended.output if isinstance(ended.output, str) else ended.output[0]
    assert find_flaw(await stage.replicate.fetch_output(url)) is None


async def test_runs_are_listed_newest_first_with_what_they_were_asked(stage):
    ref = await trained(stage)
    first = await stage.replicate.create_prediction(ref, INPUT, 300)
    second = await stage.replicate.create_prediction(ref, {"prompt": "a hill"}, 300)

    runs = await stage.replicate.list_predictions()

    assert [run.id for run in runs] == [second.id, first.id]
    assert [run.version for run in runs] == [ref.version] * 2
    assert [run.input["prompt"] for run in runs] == ["a hill", "a lake"]


async def test_a_run_that_another_process_paid_for_is_found_again(stage):
    ref = await trained(stage)
    await gate_of(stage).verify(ref)

    assert "predict" in await gate_of(stage).verify(ref)
    assert len(await stage.replicate.list_predictions()) == 1


async def test_the_gate_lets_a_model_pass_that_works(stage):
    assert await gate_of(stage).verify(await trained(stage)) == ("exists", "schema", "predict")


@pytest.mark.parametrize(("behaviour", "code"), [(Behaviour.FAILS, "run_failed"), (Behaviour.BLANK, Flaw.BLANK)])
async def test_the_gate_refuses_what_is_proven_bad(stage, behaviour, code):
    with pytest.raises(DoesNotWork) as caught:
        await gate_of(stage).verify(await trained(stage, behaviour))

    assert caught.value.code == code


async def test_the_gate_refuses_what_takes_no_prompt(stage):
    with pytest.raises(DoesNotWork) as caught:
        await gate_of(stage).verify(await trained(stage, no_prompt=True))

    assert caught.value.code == "no_prompt"


async def test_a_picture_that_was_filtered_is_no_verdict(stage):
    with pytest.raises(Inconclusive) as caught:
        await gate_of(stage).verify(await trained(stage, Behaviour.UNSAFE))

    assert caught.value.code == "run_filtered"


async def test_a_model_that_never_boots_is_no_verdict(stage):
    with pytest.raises(Inconclusive) as caught:
        await gate_of(stage).verify(await trained(stage, Behaviour.WEIGHTS_GONE))

    assert isinstance(caught.value, StillRunning) or caught.value.code == "run_cut_off"
