"""What the simulated Replicate knows: who asks when gets which version, which run ends how, and what chance may do."""

import struct
import zlib
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from services.extractor.picture import Flaw, find_flaw
from services.simulator.described import DescribedTraining
from services.simulator.faults import (
    API_FAULTS,
    ApiFaultOrder,
    Behaviour,
    FaultOrder,
    Faults,
    table,
)
from services.simulator.job import NEVER, Status
from services.simulator.knobs import Knobs
from services.simulator.models import Model
from services.simulator.prediction import parse_deadline, planned_life, png
from services.simulator.requests import TrainingRequest
from services.simulator.training import Training
from services.simulator.world import World
from tests.chance import Chance, draw

NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
ENDED = NOW + timedelta(seconds=610)
LATER = NOW + timedelta(seconds=1000)


def world(**knobs: object) -> World:
    return World(Knobs.model_validate({"boot_seconds": 10, "duration_seconds": 600, **knobs}))


def train(where: World, destination: str = "acme/u-42") -> Training:
    request = TrainingRequest(destination=destination, input={})
    made = where.create_training(request, trainer="a/b", version="e" * 64, api_url="http://here", now=NOW)
    assert made is not None
    return made


def test_ids_follow_from_the_seed_in_any_order():
    one, other, third = world(seed=1), world(seed=1), world(seed=2)
    first = [train(one, name) for name in ("acme/a", "acme/b", "acme/a")]
    second = [train(other, name) for name in ("acme/a", "acme/a", "acme/b")]

    assert {(each.id, each.makes) for each in first} == {(each.id, each.makes) for each in second}
    assert train(third, "acme/a").id not in {each.id for each in first}
    assert all(len(each.id) == 26 and len(each.makes) == 64 for each in first)


def test_a_destination_must_exist_unless_all_do():
    strict = world(auto_destinations=False)
    request = TrainingRequest(destination="acme/u-42", input={})

    refused = strict.create_training(request, trainer="a/b", version="e" * 64, api_url="", now=NOW)
    assert strict.create_model(Model("acme/u-42"))
    assert not strict.create_model(Model("acme/u-42"))

    assert refused is None
    assert train(strict).destination == "acme/u-42"


@pytest.mark.parametrize("destination", ["", "acme", "acme/", "Acme/U", "acme/u-42:latest", "a/b/c"])
def test_what_is_no_name_is_no_destination(destination):
    request = TrainingRequest(destination=destination, input={})

    assert world().create_training(request, trainer="a/b", version="e" * 64, api_url="", now=NOW) is None


def test_a_version_is_found_by_both_its_names_once_it_is_made():
    where = world()
    made = train(where)

    assert where.find_version(made.makes, now=NOW) is None
    for name in (made.makes, f"acme/u-42:{made.makes}"):
        found = where.find_version(name, now=ENDED)
        assert found is not None
        assert (found.model, found.id) == ("acme/u-42", made.makes)
    assert where.find_version(f"acme/u-43:{made.makes}", now=ENDED) is None
    assert where.find_version("acme/u-42", now=ENDED) is None


def test_versions_are_listed_newest_first():
    where = world()
    where.orders.add(FaultOrder(duration_seconds=100))
    sooner, later = train(where), train(where)
    train(where, "acme/u-43")

    assert [each.id for each in where.versions("acme/u-42", now=LATER)] == [later.makes, sooner.makes]


@pytest.mark.parametrize("outcome", [Status.FAILED, Status.CANCELED, Status.ABORTED])
def test_only_success_makes_a_version(outcome):
    where = world()
    where.orders.add(FaultOrder(outcome=outcome))

    assert where.find_version(train(where).makes, now=LATER) is None


def test_a_version_can_be_late_by_seconds():
    where = world()
    where.orders.add(FaultOrder(version_late_seconds=30))
    makes = train(where).makes

    assert where.find_version(makes, now=ENDED + timedelta(seconds=29)) is None
    assert where.find_version(makes, now=ENDED + timedelta(seconds=30)) is not None


def test_a_version_can_be_late_by_calls():
    where = world()
    where.orders.add(FaultOrder(version_late_calls=2))
    makes = train(where).makes

    before = where.find_version(makes, now=NOW)
    found = [where.find_version(makes, now=ENDED) is not None for _ in range(4)]

    assert before is None
    assert found == [False, False, True, True]


def test_a_foreign_version_is_there_but_not_in_the_destination():
    where = world()
    where.orders.add(FaultOrder(foreign_version=True))
    makes = train(where).makes

    assert where.find_version(f"somebody-else/u-42:{makes}", now=ENDED) is not None
    assert where.find_version(f"acme/u-42:{makes}", now=ENDED) is None


def test_orders_are_for_the_next_trainings_of_a_destination():
    where = world()
    where.orders.add(FaultOrder(destination="acme/a", next=2, duplicate=1))
    where.orders.add(FaultOrder(reorder=True))

    given = [train(where, name).faults for name in ("acme/a", "acme/b", "acme/a", "acme/a")]

    assert given == [Faults(duplicate=1, reorder=True), Faults(), Faults(duplicate=1), Faults()]


def test_an_order_counts_more_than_chance():
    where = world()
    where.orders = Chance({"duplicate": 1})
    where.orders.add(FaultOrder(duplicate=0))

    assert train(where).faults.duplicate == 0
    assert train(where).faults.duplicate > 0


def test_nothing_goes_wrong_after_it_was_healed():
    where = world()
    where.orders = Chance(dict.fromkeys([*Faults.model_fields, *API_FAULTS], 1))
    where.orders.add(FaultOrder(reorder=True))
    where.orders.add_for_calls(ApiFaultOrder(status=500))

    where.orders.clear()

    assert train(where).faults == Faults()
    assert where.orders.next_of_call("account.get") is None


def test_api_faults_are_for_the_next_calls_of_a_route():
    where = world()
    where.orders.add_for_calls(ApiFaultOrder(route="trainings.get", next=2, status=500))
    where.orders.add_for_calls(ApiFaultOrder(status=429))

    given = [
        where.orders.next_of_call(route) for route in ("account.get", "trainings.get", "trainings.get", "trainings.get")
    ]

    assert [fault.status if fault else None for fault in given] == [429, 500, 500, None]


def test_chance_is_the_same_for_the_same_seed_and_fair():
    chances = {"duplicate": 0.5}
    drawn = [draw(chances, str(seed)) for seed in range(400)]

    assert drawn == [draw(chances, str(seed)) for seed in range(400)]
    assert 150 < sum(faults.duplicate > 0 for faults in drawn) < 250
    assert {faults.model_copy(update={"duplicate": 0}) for faults in drawn} == {Faults()}


def test_one_faults_chance_does_not_change_anothers():
    alone = [draw({"reorder": 0.5}, str(seed)).reorder for seed in range(100)]
    among = [draw({"reorder": 0.5, "duplicate": 0.5}, str(seed)).reorder for seed in range(100)]

    assert alone == among


def test_everything_that_chance_can_draw_is_valid_and_no_default():
    for name, field in Faults.model_fields.items():
        for example in field.examples or []:
            Faults.model_validate({name: example})
    certain = draw(dict.fromkeys(Faults.model_fields, 1), "any")

    assert certain.model_fields_set == set(Faults.model_fields)
    assert all(fault["description"] and fault["examples"] for fault in table().values())


def test_a_chance_of_an_unknown_fault_lists_the_known_ones():
    with pytest.raises(AssertionError, match=r"there are .*duplicate"):
        Chance({"duplicat": 0.1})


def test_an_invalid_signing_secret_is_refused_and_not_shown():
    with pytest.raises(ValidationError) as caught:
        Knobs(secret="whsec_hunter2")

    assert "whsec_ and base64" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "end"),
    [
        (Behaviour.WORKS, (27, Status.SUCCEEDED)),
        (Behaviour.BLANK, (27, Status.SUCCEEDED)),
        (Behaviour.FAILS, (27, Status.FAILED)),
        (Behaviour.UNSAFE, (27, Status.FAILED)),
        (Behaviour.NEVER_STARTS, (300, Status.ABORTED)),
        (Behaviour.WEIGHTS_GONE, (300, Status.ABORTED)),
    ],
)
def test_a_run_ends_as_its_version_behaves(behaviour, end):
    life = planned_life(behaviour, boot_seconds=20, run_seconds=7, deadline_seconds=300)

    assert (life.ends, life.outcome) == end


def test_a_deadline_aborts_what_waits_and_cancels_what_runs():
    waits = planned_life(Behaviour.WORKS, boot_seconds=20, run_seconds=7, deadline_seconds=10)
    runs = planned_life(Behaviour.WORKS, boot_seconds=20, run_seconds=7, deadline_seconds=25)

    assert (waits.outcome, runs.outcome) == (Status.ABORTED, Status.CANCELED)


def test_without_a_deadline_what_never_starts_never_ends():
    life = planned_life(Behaviour.NEVER_STARTS, boot_seconds=20, run_seconds=7, deadline_seconds=NEVER)

    assert life.status(1e9) is Status.STARTING


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("90", 90), ("5m", 300), ("1h30m", 5400), ("1h2m3s", 3723)]
    + [(text, None) for text in ("4s", "", "s", "5 minutes", "-5s", "5d", "1m1h")],
)
def test_a_deadline_is_a_duration_of_five_seconds_at_least(text, seconds):
    assert parse_deadline(text) == seconds


def test_an_image_shows_something_unless_it_is_blank():
    assert find_flaw(png(1)) is None
    assert find_flaw(png(1, blank=True)) is Flaw.BLANK
    assert png(1) != png(2)


def test_an_image_is_a_whole_png():
    width, height = struct.unpack(">II", png(7)[16:24])
    begin = png(7).index(b"IDAT") + 4
    (size,) = struct.unpack(">I", png(7)[begin - 8 : begin - 4])

    assert len(zlib.decompress(png(7)[begin : begin + size])) == height * (1 + 3 * width)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status.PROCESSING, {}),
        (Status.SUCCEEDED, {"output": {"version": f"acme/u-42:{'a' * 64}"}, "completed_at": NOW}),
        (Status.FAILED, {"error": "no face", "completed_at": NOW}),
        (Status.CANCELED, {"completed_at": NOW}),
    ],
)
def test_a_training_that_is_told_is_known_as_it_was_told(status, told):
    where = world()
    object_ = {"model": "a/b", "version": "e" * 64, "input": {"steps": 1000}, "status": status, **told}
    moments = {"created_at": NOW - timedelta(minutes=10), "started_at": NOW - timedelta(minutes=9)}
    description = DescribedTraining(destination="acme/u-42", makes="a" * 64, **object_, **moments)

    where.add_described(description.training("t1", api_url="http://here"))

    known = where.find_training("t1")
    assert known is not None
    said = known.describe(known.seconds(NOW))
    assert {name: said[name] for name in ("status", "output", "error")} == {
        "status": status,
        "output": told.get("output"),
        "error": told.get("error"),
    }
    made = [version.id for version in where.versions("acme/u-42", now=NOW)]
    assert made == (["a" * 64] if status is Status.SUCCEEDED else [])
    found = where.find_version(f"acme/u-42:{'a' * 64}", now=NOW)
    assert (found is not None) == (status is Status.SUCCEEDED)


def test_a_success_that_is_told_without_a_version_made_none():
    where = world()
    told = DescribedTraining(
        destination="acme/u-42",
        model="a/b",
        version="e" * 64,
        input={},
        status=Status.SUCCEEDED,
        created_at=NOW - timedelta(minutes=10),
        started_at=NOW - timedelta(minutes=9),
        completed_at=NOW,
    )

    where.add_described(told.training("t1", api_url="http://here"))

    assert where.find_model("acme/u-42") is not None
    assert where.versions("acme/u-42", now=NOW) == []
