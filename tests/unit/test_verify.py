"""The gate: what is proven good passes, what is proven bad does not, and for the rest there is another day."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from services.extractor.errors import DoesNotWork, Inconclusive, NotThereYet, StillRunning
from services.extractor.picture import Flaw
from services.extractor.verify import _INPUT, NOT_RUN, Gate, Level
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.identity import ModelRef
from shared.contract.retry import RetryIn, next_step
from shared.replicate.errors import BadAnswer, ForeignAddress, NoAnswer, NotThere, OperatorNeeded
from shared.replicate.training import Prediction
from shared.replicate.version import Version
from shared.runtime.broker.circuit import CircuitBreaker, dependency_answered
from tests.fakes import FakeReplicate, Policy, look, picture, version_of

REF = ModelRef("acme", "u-42", "9" * 64)
OTHER = ModelRef("acme", "u-43", "8" * 64)
ASKED = UUID(int=1)
OUTPUT = "https://replicate.delivery/out-0.png"


@dataclass
class Clock:
    """Time that passes only where somebody sleeps."""

    now: float = 0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replicate() -> FakeReplicate:
    replicate = FakeReplicate()
    replicate.add_version(REF)
    return replicate


@pytest.fixture
def gate(replicate: FakeReplicate, clock: Clock) -> Gate:
    return gate_of(replicate, clock)


def gate_of(replicate: FakeReplicate, clock: Clock, level: Level = "predict", **options: Any) -> Gate:
    return Gate(replicate, Policy(level), find_flaw=look, monotonic=clock.monotonic, sleep=clock.sleep, **options)


@pytest.mark.parametrize(
    ("level", "checks"),
    [("exists", ("exists",)), ("schema", ("exists", "schema")), ("predict", ("exists", "schema", "predict"))],
)
async def test_a_model_that_works_passes_every_level(replicate, clock, level, checks):
    assert await gate_of(replicate, clock, level).verify(REF) == checks


@pytest.mark.parametrize(
    ("said", "expected", "looks"),
    [
        ({"status": "starting"}, pytest.raises(StillRunning), 0),
        ({"status": "succeeded", "output": OUTPUT}, contextlib.nullcontext(), 1),
    ],
    ids=["still runs", "has ended"],
)
async def test_a_wait_for_a_run_or_picture_keeps_no_other_from_replicate(replicate, clock, said, expected, looks):
    circuit = CircuitBreaker("a queue")
    reasons: list[str | None] = []
    pictures: list[bytes] = []

    async def refuse() -> None:
        raise DependencyDown("too many requests")

    async def sleep(seconds: float) -> None:
        reasons.append(circuit.reason)
        await Clock.sleep(clock, seconds)

    async def look_slowly(picture: bytes) -> Flaw | None:
        reasons.append(circuit.reason)
        pictures.append(picture)
        return await look(picture)

    gate = Gate(
        replicate,
        Policy(),
        find_flaw=look_slowly,
        monotonic=clock.monotonic,
        sleep=sleep,
        on_answer=dependency_answered,
    )
    replicate.will_say = [said]
    with pytest.raises(DependencyDown):
        await circuit.call(refuse, asyncio.sleep)
    with expected:
        await circuit.call(lambda: gate.verify(REF), asyncio.sleep)

    assert (set(reasons), len(pictures)) == ({None}, looks)


@pytest.mark.parametrize("level", ["exists", "schema"])
async def test_only_the_last_level_costs_a_run(replicate, clock, level):
    await gate_of(replicate, clock, level).verify(REF)

    assert replicate.inputs == []


@pytest.mark.parametrize("level", ["exists", "schema", "predict"])
async def test_a_version_that_is_missing_may_still_come(replicate, clock, level):
    with pytest.raises(NotThereYet) as caught:
        await gate_of(replicate, clock, level).verify(OTHER)

    assert caught.value.code == "version_not_there_yet"
    assert str(OTHER) in str(caught.value)


async def test_another_version_is_not_the_one_that_was_asked_for(replicate, gate):
    replicate.versions[REF] = Version(id=OTHER.version)

    with pytest.raises(NotThereYet):
        await gate.verify(REF)


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"properties": {"text": {"type": "string"}}}, "no_prompt"),
        ({"properties": {"prompt": {"type": "integer"}}}, "no_prompt"),
        (
            {"properties": {"prompt": {"type": "string"}, "image": {}}, "required": ["prompt", "image"]},
            "needs_more_input",
        ),
    ],
)
@pytest.mark.parametrize("level", ["schema", "predict"])
async def test_a_model_that_a_prompt_does_not_satisfy_does_not_work(replicate, clock, level, schema, code):
    replicate.add_version(REF, schema)

    with pytest.raises(DoesNotWork) as caught:
        await gate_of(replicate, clock, level).verify(REF)

    assert caught.value.code == code
    assert replicate.inputs == []


async def test_a_model_without_a_schema_is_asked_again_later(replicate, gate):
    replicate.add_version(REF, None)

    with pytest.raises(Inconclusive):
        await gate.verify(REF)


async def test_the_run_asks_for_one_picture_where_the_model_knows_how(replicate, gate):
    replicate.add_version(OTHER, {"properties": {"prompt": {"type": "string"}, "num_outputs": {"type": "integer"}}})

    await gate.verify(REF)
    await gate.verify(OTHER)

    plain, cheap = replicate.inputs
    assert set(plain) == {"prompt"}
    assert cheap == {**plain, "num_outputs": 1}


@pytest.mark.parametrize("output", [OUTPUT, [OUTPUT], [OUTPUT, "https://replicate.delivery/out-1.png"]])
async def test_a_picture_is_found_alone_or_first_in_a_list(replicate, gate, output):
    replicate.will_say = [{"status": "succeeded", "output": output}]

    assert "predict" in await gate.verify(REF)


@pytest.mark.parametrize("output", [None, [], "", {}, [None], {"image": OUTPUT}, 7])
async def test_a_run_without_a_picture_proves_the_model_bad(replicate, gate, output):
    replicate.will_say = [{"status": "succeeded", "output": output}]

    with pytest.raises(DoesNotWork) as caught:
        await gate.verify(REF)

    assert caught.value.code == "no_image"


@pytest.mark.parametrize(
    ("file", "code"), [(picture(blank=True), "blank_image"), (b"<html>", "broken_image"), (b"", "broken_image")]
)
async def test_a_picture_of_nothing_proves_the_model_bad(replicate, gate, file, code):
    replicate.files[OUTPUT] = file

    with pytest.raises(DoesNotWork) as caught:
        await gate.verify(REF)

    assert caught.value.code == code


async def test_a_run_that_fails_proves_the_model_bad(replicate, gate):
    replicate.will_say = [{"status": "failed", "error": "shapes can not be multiplied"}]

    with pytest.raises(DoesNotWork, match="shapes can not be multiplied") as caught:
        await gate.verify(REF)

    assert caught.value.code == "run_failed"


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("failed", "NSFW content detected. Try running it again, or try a different prompt.", "run_filtered"),
        ("failed", "The input or output was flagged as sensitive. Please try again. (E005)", "run_filtered"),
        ("failed", "Prediction interrupted; please retry (code: PA)", "run_interrupted"),
        ("failed", "Timed out starting the prediction (E6716)", "run_interrupted"),
        ("canceled", None, "run_cut_off"),
    ],
)
async def test_a_run_that_says_nothing_about_the_model_is_inconclusive(replicate, gate, status, error, code):
    replicate.will_say = [{"status": status, "error": error}]

    with pytest.raises(Inconclusive) as caught:
        await gate.verify(REF)

    assert caught.value.code == code
    assert caught.value.max_attempts is not None


async def test_a_booting_model_is_awaited_for_the_patience(replicate, gate, clock):
    replicate.will_say = [{"status": "starting"}]

    with pytest.raises(StillRunning, match="starting"):
        await gate.verify(REF)

    assert clock.now == Policy.verify_patience_seconds


async def test_the_next_attempt_goes_on_with_the_same_run(replicate, gate):
    replicate.will_say = [{"status": "starting"}] * 40 + [{"status": "succeeded", "output": OUTPUT}]
    with pytest.raises(StillRunning):
        await gate.verify(REF)

    checks = await gate.verify(REF)

    assert "predict" in checks
    assert len(replicate.inputs) == 1


async def test_a_model_that_was_seen_to_work_is_not_paid_for_twice(replicate, gate):
    await gate.verify(REF)

    assert await gate.verify(REF) == ("exists", "schema", "predict")
    assert len(replicate.inputs) == 1


async def test_not_even_when_both_come_at_once(replicate, gate):
    await asyncio.gather(gate.verify(REF), gate.verify(REF))

    assert len(replicate.inputs) == 1


async def test_but_it_must_still_be_there(replicate, gate):
    await gate.verify(REF)
    del replicate.versions[REF]

    with pytest.raises(NotThereYet):
        await gate.verify(REF)


async def test_what_was_seen_an_hour_ago_is_seen_again(replicate, gate, clock):
    await gate.verify(REF)
    clock.now += 3601
    replicate.runs.clear()  # Replicate deletes them after an hour

    await gate.verify(REF)

    assert len(replicate.inputs) == 2


@pytest.mark.parametrize("said", [{"status": "failed", "error": "NSFW"}, {"status": "aborted"}])
async def test_a_run_that_did_not_help_is_not_waited_for_again(replicate, gate, said):
    works, replicate.will_say = replicate.will_say, [said]
    with pytest.raises(Inconclusive):
        await gate.verify(REF)
    replicate.will_say = works

    await gate.verify(REF)

    assert len(replicate.inputs) == 2


async def test_a_run_that_a_killed_process_paid_for_is_waited_for(replicate, gate, clock):
    replicate.will_say = [{"status": "starting"}] * 40 + [{"status": "succeeded", "output": OUTPUT}]
    with pytest.raises(StillRunning):
        await gate.verify(REF)

    checks = await gate_of(replicate, clock).verify(REF, request_id=ASKED)

    assert "predict" in checks
    assert len(replicate.inputs) == 1


async def test_a_picture_that_a_killed_process_paid_for_is_looked_at(replicate, gate, clock):
    await gate.verify(REF)

    assert "predict" in await gate_of(replicate, clock).verify(REF)
    assert len(replicate.inputs) == 1


async def test_whoever_asks_anew_is_not_shown_an_old_picture(replicate, gate, clock):
    await gate.verify(REF)

    await gate_of(replicate, clock).verify(REF, request_id=ASKED)

    assert len(replicate.inputs) == 2


@pytest.mark.parametrize(
    "run",
    [
        {"status": "failed", "error": "no weights"},
        {"status": "failed", "output": [OUTPUT]},
        {"status": "canceled"},
        {"status": "succeeded", "output": None},
        {"status": "succeeded", "output": [OUTPUT], "version": OTHER.version},
        {"status": "processing", "input": {"prompt": "somebody else's"}},
        {"status": "succeeded", "output": [OUTPUT], "input": {}},
    ],
    ids=["failed", "failed in the middle", "canceled", "deleted", "another version", "another prompt", "no prompt"],
)
async def test_no_other_run_stands_for_this_one(replicate, gate, clock, run):
    works, replicate.will_say = replicate.will_say, [run]
    await replicate.create_prediction(REF, _INPUT, 300)
    replicate.will_say = works

    assert "predict" in await gate.verify(REF)
    assert len(replicate.inputs) == 2


@pytest.mark.parametrize("error", [NoAnswer("502"), BadAnswer("no JSON")])
async def test_a_run_of_which_the_answer_was_lost_is_found_again(replicate, gate, error):
    create = replicate.create_prediction

    async def lose(*question):
        await create(*question)
        raise error

    replicate.create_prediction = lose
    with pytest.raises(type(error)):
        await gate.verify(REF)
    replicate.create_prediction = create

    assert "predict" in await gate.verify(REF)
    assert len(replicate.inputs) == 1


@pytest.mark.parametrize("error", [NotThere("404"), BadAnswer("no list")])
async def test_without_a_list_of_runs_one_more_is_paid_for(replicate, gate, error):
    async def list_predictions():
        raise error

    replicate.list_predictions = list_predictions

    assert "predict" in await gate.verify(REF)


@pytest.fixture
async def bad(replicate: FakeReplicate, gate: Gate) -> Gate:
    """It saw REF fail, on the request ASKED; the next run would succeed."""
    works, replicate.will_say = replicate.will_say, [{"status": "failed", "error": "no weights"}]
    with pytest.raises(DoesNotWork):
        await gate.verify(REF, request_id=ASKED)
    replicate.will_say = works
    return gate


@pytest.mark.parametrize("request_id", [None, ASKED])
async def test_a_model_that_was_seen_to_fail_is_not_paid_for_twice(replicate, bad, request_id):
    with pytest.raises(DoesNotWork, match=r"no weights.*not run again") as caught:
        await bad.verify(REF, request_id=request_id)

    assert caught.value.code == "run_failed"
    assert len(replicate.inputs) == 1


async def test_whoever_asks_anew_has_it_run_again(replicate, bad):
    assert "predict" in await bad.verify(REF, request_id=UUID(int=2))
    assert "predict" in await bad.verify(REF)
    assert len(replicate.inputs) == 2


async def test_what_was_seen_to_fail_ten_minutes_ago_is_tried_again(bad, clock):
    clock.now += 601

    assert "predict" in await bad.verify(REF)


@pytest.mark.parametrize(("level", "checks"), [("exists", ("exists",)), ("schema", ("exists", "schema"))])
async def test_check_without_run_runs_all_free_checks(replicate, clock, level, checks):
    assert await gate_of(replicate, clock, level).check_without_run(REF) == checks


async def test_check_without_run_starts_no_run_and_says_so(replicate, gate):
    assert await gate.check_without_run(REF) == ("exists", "schema", NOT_RUN)
    assert replicate.inputs == []


async def test_check_without_run_knows_a_run_that_succeeded(replicate, gate):
    await gate.verify(REF)

    assert await gate.check_without_run(REF) == ("exists", "schema", "predict")
    assert len(replicate.inputs) == 1


async def test_check_without_run_knows_a_run_that_failed(bad):
    with pytest.raises(DoesNotWork, match="no weights"):
        await bad.check_without_run(REF)

    assert await bad.check_without_run(REF, request_id=UUID(int=2)) == ("exists", "schema", NOT_RUN)


async def test_check_without_run_refuses_a_missing_version(gate):
    with pytest.raises(NotThereYet):
        await gate.check_without_run(OTHER)


async def test_one_failure_says_nothing_of_another_model(replicate, bad):
    replicate.add_version(OTHER)

    assert "predict" in await bad.verify(OTHER)


async def test_a_picture_on_a_foreign_host_is_not_paid_for_twice(replicate, gate):
    async def refuse(url: str) -> bytes:
        raise ForeignAddress(f"an output on {url}")

    replicate.fetch_output = refuse
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            await gate.verify(REF)

    assert caught.value.code == ForeignAddress.code
    assert len(replicate.inputs) == 1


async def test_of_very_many_models_the_oldest_is_forgotten(replicate, clock):
    gate = gate_of(replicate, clock, most_remembered=3)
    replicate.will_say = [{"status": "succeeded", "output": OUTPUT}]
    replicate.files[OUTPUT] = picture(size=(2, 2))
    await gate.verify(REF)
    for number in range(4):
        other = ModelRef("acme", "u-43", f"{number:064x}")
        replicate.add_version(other)
        await gate.verify(other)
    before = len(replicate.inputs)
    replicate.runs.clear()

    await gate.verify(other)
    known = len(replicate.inputs) - before
    await gate.verify(REF)
    forgotten = len(replicate.inputs) - before - known

    assert (known, forgotten) == (0, 1)


async def test_a_run_that_is_not_readable_yet_is_paid_for_once(replicate, gate, clock):
    read, replicate.get_prediction = replicate.get_prediction, not_yet
    with pytest.raises(StillRunning, match="unreadable"):
        await gate.verify(REF)
    clock.now += 120
    replicate.get_prediction = read

    assert "predict" in await gate.verify(REF)
    assert len(replicate.inputs) == 1


async def not_yet(prediction_id: str) -> Prediction:
    raise NotThere(f"get run {prediction_id}: 404")


@pytest.mark.parametrize("error", [NoAnswer("502"), BadAnswer("no JSON")])
async def test_a_run_that_is_not_listed_yet_is_waited_for(replicate, gate, clock, error):
    create, listed = replicate.create_prediction, replicate.list_predictions

    async def lose(*question):
        await create(*question)
        raise error

    async def list_nothing():
        return []

    replicate.create_prediction, replicate.list_predictions = lose, list_nothing
    with pytest.raises(type(error)):
        await gate.verify(REF)
    replicate.create_prediction = create
    clock.now += 30
    with pytest.raises(Inconclusive, match="does not list yet") as caught:
        await gate.verify(REF)
    replicate.list_predictions = listed

    assert "predict" in await gate.verify(REF)
    assert caught.value.code == "run_not_listed"
    assert len(replicate.inputs) == 1


async def test_a_run_that_never_began_is_paid_for_after_a_while(replicate, gate, clock):
    create = replicate.create_prediction

    async def fail(*_):
        raise NoAnswer("connection reset")

    replicate.create_prediction = fail
    with pytest.raises(NoAnswer):
        await gate.verify(REF)
    replicate.create_prediction = create
    clock.now += 61

    assert "predict" in await gate.verify(REF)
    assert len(replicate.inputs) == 1


async def test_a_run_that_replicate_lost_is_made_again(replicate, gate, clock):
    replicate.will_say = [{"status": "starting"}]
    with pytest.raises(StillRunning):
        await gate.verify(REF)
    replicate.runs.clear()
    clock.now += Policy.verify_cancel_after_seconds

    with pytest.raises(Inconclusive, match="lost"):
        await gate.verify(REF)
    replicate.will_say = FakeReplicate.will_say
    await gate.verify(REF)

    assert len(replicate.inputs) == 2


async def test_a_picture_that_is_gone_is_no_verdict(replicate, gate):
    replicate.files.clear()

    with pytest.raises(Inconclusive, match="gone"):
        await gate.verify(REF)


@pytest.mark.parametrize("error", [DependencyDown("no connection"), NoAnswer("503"), BadAnswer("too long")])
async def test_an_unreachable_picture_is_retried_and_paid_for_once(replicate, gate, error):
    fetch = replicate.fetch_output

    async def fail(_: str) -> bytes:
        raise error

    replicate.fetch_output = fail
    with pytest.raises(Inconclusive, match="out of reach") as caught:
        await gate.verify(REF)
    replicate.fetch_output = fetch
    checks = await gate.verify(REF)

    assert not isinstance(caught.value, DependencyDown)
    assert caught.value.code == "picture_out_of_reach"
    assert "predict" in checks
    assert len(replicate.inputs) == 1


async def test_hours_without_replicates_files_end_with_a_run_that_is_seen(replicate, gate, clock):
    """An outage of `replicate.delivery` alone: everything else answers, and the picture is deleted meanwhile."""
    fetch, attempt = replicate.fetch_output, 1

    async def fail(_: str) -> bytes:
        raise NoAnswer("503")

    async def gone(_: str) -> bytes:
        raise NotThere("404")

    replicate.fetch_output = fail
    for errors, answer in ((6, gone), (1, fetch)):
        for _ in range(errors):
            with pytest.raises(Inconclusive) as caught:
                await gate.verify(REF)
            step = next_step(caught.value, attempt=attempt)
            assert isinstance(step, RetryIn)
            attempt = step.attempt
        replicate.fetch_output = answer

    assert "predict" in await gate.verify(REF)
    assert len(replicate.inputs) == 2


async def test_hours_without_a_machine_at_replicate_are_waited_for(replicate, gate):
    replicate.will_say = [{"status": "aborted"}]

    for attempt in range(1, 9):
        with pytest.raises(Inconclusive) as caught:
            await gate.verify(REF)
        assert isinstance(next_step(caught.value, attempt=attempt), RetryIn)

    assert caught.value.code == "run_cut_off"


def replicate_falls_ill(replicate: FakeReplicate, error: Exception) -> Callable[[float], Awaitable[None]]:
    async def sleep(_: float) -> None:
        replicate.next_error = error

    return sleep


@pytest.mark.parametrize("error", [DependencyDown("503"), OperatorNeeded("402")])
async def test_an_outage_of_replicate_decides_and_forgets_nothing(replicate, clock, error):
    replicate.will_say = [{"status": "starting"}] * 2 + [{"status": "succeeded", "output": OUTPUT}]
    gate = Gate(
        replicate, Policy(), find_flaw=look, monotonic=clock.monotonic, sleep=replicate_falls_ill(replicate, error)
    )

    with pytest.raises(type(error)):
        await gate.verify(REF)
    with pytest.raises(type(error)):
        await gate.verify(REF)
    checks = await gate.verify(REF)

    assert "predict" in checks
    assert len(replicate.inputs) == 1


async def test_a_version_that_can_not_be_run_yet_is_not_there_yet(replicate, gate):
    async def get_version(ref: ModelRef) -> Version:
        return version_of(ref)

    replicate.get_version = get_version
    replicate.versions.clear()

    with pytest.raises(NotThereYet):
        await gate.verify(REF)
