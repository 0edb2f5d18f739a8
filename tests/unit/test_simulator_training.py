"""A simulated training is in one state at a time, its log only grows, and its webhooks follow from its life."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.job import Status
from services.simulator.knobs import Knobs
from services.simulator.requests import TrainingRequest
from services.simulator.schedule import RETRY_DELAYS_SECONDS, Due, message_id, webhooks
from services.simulator.training import Training
from services.simulator.world import World

NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
STARTS, ENDS, STOPS = 10.0, 610.0, 10.0 + 600 * 0.41
START, OUTPUT, LOGS, COMPLETED = WebhookEvent


def training(*, steps: int = 1000, events: list[str] | None = None, speed: float = 1, **faults: object) -> Training:
    world = World(Knobs(boot_seconds=10, duration_seconds=600, speed=speed))
    world.orders.add(FaultOrder.model_validate(faults))
    request = {"destination": "acme/u-42", "input": {"steps": steps}, "webhook": "http://127.0.0.1/"}
    request["webhook_events_filter"] = events or ["start", "output", "completed"]
    made = world.create_training(
        TrainingRequest.model_validate(request), trainer="a/b", version="e" * 64, api_url="http://here", now=NOW
    )
    assert made is not None
    return made


def last_step(logs: str) -> str:
    return [line for line in logs.splitlines() if line.startswith("flux_train_replicate:")][-1]


@pytest.mark.parametrize(
    ("outcome", "moments"),
    [
        ("succeeded", {0: "starting", STARTS: "processing", ENDS - 1: "processing", ENDS: "succeeded"}),
        ("failed", {0: "starting", STARTS: "processing", STOPS: "failed"}),
        ("canceled", {0: "starting", STARTS: "processing", STOPS: "canceled"}),
        ("aborted", {0: "starting", STARTS: "aborted"}),
    ],
)
def test_a_training_is_in_the_state_of_the_moment(outcome, moments):
    life = training(outcome=outcome).life

    assert {seconds: life.status(seconds) for seconds in moments} == moments


def test_only_a_training_that_succeeded_has_a_version():
    succeeded = training()
    weights = {"weights": f"https://replicate.delivery/xezq/{succeeded.id}/trained_model.tar"}

    assert succeeded.output(ENDS - 60) is None
    assert succeeded.output(ENDS - 1) == weights
    assert succeeded.output(ENDS) == {"version": f"acme/u-42:{succeeded.makes}", **weights}
    assert training(outcome="failed").output(ENDS) is None


def test_a_failed_training_says_why_and_shows_where():
    failed = training(outcome="failed", error="disk full").describe(STOPS)

    assert failed["error"] == "disk full"
    assert str(failed["logs"]).endswith("RuntimeError: disk full\n")


def test_an_aborted_training_never_started():
    aborted = training(outcome="aborted").describe(STARTS)

    assert "started_at" not in aborted
    assert "predict_time" not in str(aborted["metrics"])
    assert aborted["logs"] == ""


def test_a_training_can_run_longer_than_others():
    assert training(duration_seconds=3600).life.ends == STARTS + 3600


def test_dates_are_real_however_fast_time_passes():
    body = training(speed=100).describe(ENDS)

    assert body["created_at"] == "2026-11-24T10:00:00.000Z"
    assert body["completed_at"] == "2026-11-24T10:00:06.100000000Z"
    assert body["metrics"] == {"predict_time": 6.0, "total_time": 6.1}


@pytest.mark.parametrize("steps", [1, 7, 1000, 2500])
def test_the_log_only_grows_and_ends_with_the_last_step(steps):
    one = training(steps=steps)
    moments = [STARTS + 600 * share / 200 for share in range(201)]
    logs = [one.logs(moment) for moment in moments]

    assert all(later.startswith(earlier) for earlier, later in pairwise(logs))
    assert f"| {steps}/{steps} [" in last_step(logs[-1])
    assert logs[-1].endswith("lora.safetensors\n")


def test_the_log_shows_how_far_the_training_is():
    midway = training().logs(STARTS + 600 * 0.5)

    assert last_step(midway).startswith("flux_train_replicate:  47%|████▋     | 471/1000 [04:11<04:42,  1.87it/s, lr: ")


def test_equal_positions_are_equal_texts():
    one = training(steps=20)
    seen = {one.log_position(second): one.logs(second) for second in range(610)}

    assert len(set(seen.values())) == len(seen) > 20


def test_logs_can_be_huge_and_still_end_with_the_end():
    logs = training(huge_logs=230_000).logs(ENDS)

    assert len(logs.encode()) >= 230_000
    assert logs.endswith("lora.safetensors\n")


@pytest.mark.parametrize(
    ("ordered", "said"),
    [
        (None, None),
        ("$destination:$version", "acme/u-42:{version}"),
        (
            {"version": {"id": "$version"}, "n": [1, "$weights"]},
            {"version": {"id": "{version}"}, "n": [1, "{weights}"]},
        ),
        ("costs $5", "costs $5"),
    ],
)
def test_an_ordered_output_may_be_any_json_with_placeholders(ordered, said):
    one = training(output=ordered)
    weights = f"https://replicate.delivery/xezq/{one.id}/trained_model.tar"
    expected = json.dumps(said).replace("{version}", one.makes).replace("{weights}", weights)

    assert one.output(ENDS) == json.loads(expected)


def test_removed_data_is_gone_for_those_who_ask_but_was_told():
    one = training(data_removed=True)
    asked = one.describe(ENDS)

    assert one.describe(ENDS - 1)["input"] == {"steps": 1000}
    assert (asked["input"], asked["output"], asked["logs"], asked["data_removed"]) == ({}, None, "", True)
    assert json.loads(one.webhook_body(ENDS))["output"] is not None


def test_a_version_can_be_somebody_elses():
    one = training(foreign_version=True)

    match one.output(ENDS):
        case {"version": version}:
            assert version == f"somebody-else/u-42:{one.makes}"
        case other:
            pytest.fail(f"no version in {other}")


def test_a_healthy_training_posts_start_output_and_end():
    assert list(webhooks(training())) == [
        Due(STARTS, START, STARTS),
        Due(STARTS + 588, OUTPUT, STARTS + 588),
        Due(ENDS, COMPLETED, ENDS),
    ]


@pytest.mark.parametrize("asked", list(WebhookEvent))
def test_nothing_is_told_that_was_not_asked_for(asked):
    assert {due.event for due in webhooks(training(events=[asked]))} == {asked}


def test_new_logs_are_posted_at_intervals():
    told = [due.at for due in webhooks(training(steps=100, events=["logs"]))]
    often = [due.at for due in webhooks(training(steps=5000, events=["logs"]))]
    seldom = [due.at for due in webhooks(training(steps=5000, events=["logs"]), log_interval_seconds=60)]

    assert 100 < len(told) < 120
    assert min(later - earlier for earlier, later in pairwise(often)) == 0.5
    assert len(seldom) == 10


@pytest.mark.parametrize("outcome", ["failed", "canceled", "aborted"])
def test_every_end_is_told_once(outcome):
    dues = list(webhooks(training(outcome=outcome, events=["start", "output", "logs", "completed"])))

    assert [due for due in dues if due.event is COMPLETED] == [dues[-1]]
    assert OUTPUT not in {due.event for due in dues}


def test_dropped_webhooks_are_never_posted():
    assert list(webhooks(training(drop=["start", "completed"]))) == [Due(STARTS + 588, OUTPUT, STARTS + 588)]


def test_the_end_can_overtake_everything_before_it():
    told = list(webhooks(training(reorder=True, events=["start", "output", "logs", "completed"])))

    assert [due.event for due in told] == [COMPLETED, LOGS, OUTPUT, START]
    assert [due.at for due in told] == [ENDS] * 4
    assert [due.as_of for due in told] == sorted((due.as_of for due in told), reverse=True)


def test_the_end_can_be_told_late():
    assert list(webhooks(training(late_seconds=60)))[-1] == Due(ENDS + 60, COMPLETED, ENDS)


def test_late_logs_arrive_after_the_end_as_processing():
    one = training(late_logs_seconds=5, events=["logs", "completed"])
    *_, end, late = webhooks(one)

    assert (end.event, late.event, late.at) == (COMPLETED, LOGS, ENDS + 5)
    assert json.loads(one.webhook_body(late.as_of))["status"] == "processing"


def test_a_webhook_keeps_its_id_and_its_bytes():
    one, same = training(), training()
    ids = [message_id(one, due) for due in webhooks(one)]

    assert ids == [message_id(same, due) for due in webhooks(same)]
    assert len(set(ids)) == 3
    assert one.webhook_body(ENDS) == same.webhook_body(ENDS)


def test_a_cancel_ends_it_there_and_then():
    waiting, running, ended = (training().cut(at, Status.CANCELED) for at in (5, 100, ENDS))

    assert [due.event for due in webhooks(waiting)] == [COMPLETED]
    assert [due.event for due in webhooks(running)] == [START, COMPLETED]
    assert (running.life.outcome, running.life.ends) == (Status.CANCELED, 100)
    assert ended.life.outcome is Status.SUCCEEDED


def test_a_running_training_can_be_made_to_fail():
    ordered = training().with_orders(FaultOrder(outcome=Status.FAILED, error="disk full").faults, at=100)

    assert (ordered.life.status(99), ordered.life.status(100)) == (Status.PROCESSING, Status.FAILED)
    assert ordered.describe(100)["error"] == "disk full"


def test_what_runs_is_canceled_and_never_aborted():
    assert training().with_orders(FaultOrder(outcome=Status.ABORTED).faults, at=100).life.outcome is Status.CANCELED


def test_retries_last_about_a_minute_and_grow():
    assert sum(RETRY_DELAYS_SECONDS) == 60
    assert sorted(RETRY_DELAYS_SECONDS) == list(RETRY_DELAYS_SECONDS)
