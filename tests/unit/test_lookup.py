"""A version that no output names is taken only where no other training can have made it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.extractor.errors import NeedsLookup, NoModel, NotThereYet
from services.extractor.lookup import look_up
from services.extractor.outputs import Found, find_model
from shared.contract.events import TrainingSucceeded
from shared.contract.identity import ModelName, ModelRef
from tests.fakes import FakeReplicate

DESTINATION = ModelName("acme", "u-42")
MODEL = ModelRef(*DESTINATION, "9" * 64)
OTHER = ModelRef(*DESTINATION, "8" * 64)
START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


TRAINING = TrainingSucceeded(training_id="t1", started_at=START, completed_at=at(10))
#: Its webhook was lost.
NOW = at(90)


def lookup_of(output: Any = None) -> NeedsLookup:
    with pytest.raises(NeedsLookup) as caught:
        find_model(output, destination=DESTINATION, trainer="acme/trainer", trainer_version=None)
    return caught.value


@pytest.fixture
def replicate() -> FakeReplicate:
    replicate = FakeReplicate()
    add_version(replicate, MODEL, at(9))
    replicate.add_training("t1", created_at=at(-1).isoformat(), completed_at=at(10).isoformat())
    return replicate


def add_version(replicate: FakeReplicate, ref: ModelRef, created_at: datetime) -> None:
    replicate.add_version(ref)
    replicate.versions[ref] = replicate.versions[ref].model_copy(update={"created_at": created_at})


def add_other(replicate: FakeReplicate, began: datetime, ended: datetime, **fields: Any) -> None:
    replicate.add_training("t2", created_at=began.isoformat(), completed_at=ended.isoformat(), **fields)


async def found(
    replicate: FakeReplicate, training: TrainingSucceeded = TRAINING, output: Any = None, now: datetime = NOW
) -> Found:
    return await look_up(lookup_of(output), training, replicate, now=now)


async def refused(replicate: FakeReplicate, training: TrainingSucceeded = TRAINING) -> NoModel:
    with pytest.raises(NoModel) as caught:
        await found(replicate, training)
    return caught.value


async def test_the_only_version_of_its_time_is_found_without_an_output(replicate: FakeReplicate):
    add_version(replicate, OTHER, at(-1))
    add_version(replicate, ModelRef(*DESTINATION, "7" * 64), at(21))

    assert await found(replicate) == Found(MODEL, "lookup/no_version", looked_up=True, made_at=at(9))


async def test_without_a_destination_there_is_nothing_to_look_at():
    with pytest.raises(NoModel) as caught:
        find_model(None, destination=None, trainer="acme/trainer", trainer_version=None)

    assert (type(caught.value), caught.value.code) == (NoModel, "no_version")


async def test_two_versions_of_its_time_are_none(replicate: FakeReplicate):
    add_version(replicate, OTHER, at(5))

    error = await refused(replicate)

    assert (error.code, "modelswap dead-letters edit" in str(error)) == ("ambiguous", True)


@pytest.mark.parametrize(
    "output", [str(MODEL), {"version": MODEL.version}, {"version": f"https://replicate.com/{MODEL}"}]
)
async def test_a_version_that_another_output_names_is_that_ones(replicate: FakeReplicate, output: Any):
    add_other(replicate, at(60), at(70), output=output)

    error = await refused(replicate)

    assert (error.code, "t2" in str(error)) == ("model_of_another_training", True)


@pytest.mark.parametrize("output", [None, {"weights": "w.tar"}, "9" * 8, 7, {"version": str(DESTINATION)}])
async def test_an_output_that_leaves_it_open_makes_a_rival(replicate: FakeReplicate, output: Any):
    add_other(replicate, at(-1), at(8), output=output)

    assert (await found(replicate)).rivals == ("t2",)


@pytest.mark.parametrize(
    ("began", "ended", "fields"),
    [
        (-1, 8, {"output": str(OTHER)}),
        (-1, 8, {"output": f"acme/u-43:{'9' * 64}"}),
        (-1, 8, {"status": "failed"}),
        (-1, 8, {"status": "processing"}),
        (10, 20, {}),
        (-30, -2, {}),
    ],
    ids=["another version", "another model", "failed", "still runs", "began later", "ended earlier"],
)
async def test_what_can_not_have_made_it_is_no_rival(
    replicate: FakeReplicate, began: float, ended: float, fields: dict[str, Any]
):
    add_other(replicate, at(began), at(ended), **{"output": None, **fields})

    assert (await found(replicate)).rivals == ()


async def test_a_training_without_times_is_a_rival(replicate: FakeReplicate):
    replicate.add_training("t2")

    assert (await found(replicate)).rivals == ("t2",)


async def test_what_is_not_listed_soon_after_the_end_may_still_be(replicate: FakeReplicate):
    replicate.versions.clear()

    with pytest.raises(NotThereYet):
        await found(replicate, now=at(20))


async def test_a_version_not_listed_long_after_the_end_is_missing(replicate: FakeReplicate):
    replicate.versions.clear()

    error = await refused(replicate)

    assert (error.code, "modelswap dead-letters edit" in str(error)) == ("no_version", True)


async def test_without_times_nothing_is_taken(replicate: FakeReplicate):
    assert (await refused(replicate, TrainingSucceeded(training_id="t1"))).code == "no_version"
