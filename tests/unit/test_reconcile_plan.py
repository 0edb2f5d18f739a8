"""What is done about an overdue training: a table of what state and Replicate say, with the time handed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ops.reconcile.listing import Listing, oldest
from services.ops.reconcile.plan import Fetch, GiveUp, Identify, NeverStarted, Report, RetryExtraction, Step, Wait, plan
from services.ops.reconcile.trainings import (
    CallBudget,
    Limits,
    Memory,
    Stage,
    Unfinished,
    Watched,
    after_report,
    is_due,
    next_check,
)
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.training import Training
from shared.replicate.webhook_url import Claim, webhook_url

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
BEGIN = datetime(2026, 11, 24, 8, tzinfo=UTC)
LIMITS = Limits(after=HOUR, every=MINUTE, give_up_after=timedelta(days=3), retries=3 * HOUR)
SECRETS = ("of-ours",)
ACME = ModelName("acme", "ann")
TRAINER = ModelRef("ostris", "trainer", "0" * 64)
VERSION = "acme/ann:" + "a" * 64


def unfinished(number: int = 1, **facts: Any) -> Unfinished:
    return Unfinished.model_validate(
        {
            "ref": UUID(int=number),
            "training_id": f"t{number}",
            "user_id": f"user-{number}",
            "stage": Stage.RUNNING,
            "destination": str(ACME),
            "trainer": str(TRAINER),
            "total_steps": 1000,
            "requested_at": BEGIN,
            "started_at": None,
            "updated_at": BEGIN,
            **facts,
        }
    )


def nameless(number: int = 1, **facts: Any) -> Unfinished:
    return unfinished(number, training_id=None, stage=Stage.REQUESTED, **facts)


def replicates(**facts: Any) -> Training:
    return Training.model_validate(
        {
            "id": "t1",
            "status": "succeeded",
            "model": "ostris/trainer",
            "output": {"version": VERSION},
            "created_at": BEGIN.isoformat(),
            **facts,
        }
    )


def address_of(training: Unfinished, *, secret: str = SECRETS[0]) -> str:
    claim = Claim(training.ref, training.destination, training.total_steps)
    return webhook_url("https://hooks.example.com", claim, (secret,))


def listing(*trainings: Training, is_whole: bool = True) -> Listing:
    shown = Listing(SECRETS, is_whole=is_whole)
    shown.add(trainings)
    return shown


def step(training: Unfinished, shown: Listing, *, memory: Memory | None = None, age: timedelta = HOUR) -> Step:
    (only,) = plan([Watched(training, memory or Memory())], shown, now=BEGIN + age, limits=LIMITS)
    return only


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled", "aborted"])
def test_what_ended_by_the_list_is_told(status: str):
    found = replicates(status=status)

    assert step(unfinished(), listing(found)) == Report(unfinished(), found)


def test_listed_success_without_output_is_fetched():
    assert step(unfinished(), listing(replicates(output=None))) == Fetch(unfinished(), "t1")


def test_success_without_output_is_reported_after_all_fetches():
    found = replicates(output=None)

    assert step(unfinished(), listing(found), memory=Memory(gets=3, asked_at=BEGIN)) == Report(unfinished(), found)


def test_what_runs_by_the_list_costs_no_call():
    assert step(unfinished(), listing(replicates(status="processing"))) == Wait(unfinished())


def test_that_it_runs_is_told_where_nobody_knew():
    found = replicates(status="starting")
    requested = unfinished(stage=Stage.REQUESTED)

    assert step(requested, listing(found)) == Report(requested, found)


def test_a_status_that_nobody_knows_is_no_end():
    assert step(unfinished(), listing(replicates(status="paused"))) == Wait(unfinished())


@pytest.mark.parametrize(
    ("gets", "asked_before", "is_asked"),
    [
        (0, None, True),
        (1, 59 * MINUTE, False),
        (1, HOUR, True),
        (2, HOUR, False),
        (2, 2 * HOUR, True),
        (3, timedelta(days=2), False),
    ],
)
def test_unlisted_training_is_fetched_thrice_ever_more_rarely(
    gets: int,
    asked_before: timedelta | None,
    is_asked: bool,  # noqa: FBT001 (a column of the table)
):
    age = timedelta(days=2, hours=1)
    asked_at = None if asked_before is None else BEGIN + age - asked_before

    decided = step(unfinished(), listing(), memory=Memory(gets=gets, asked_at=asked_at), age=age)

    assert decided == (Fetch(unfinished(), "t1") if is_asked else Wait(unfinished(), is_absent=True))


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (listing(), "Replicate does not show it"),
        (listing(replicates(status="processing")), "Replicate still says 'processing'"),
    ],
)
def test_silent_training_is_given_up_after_days(shown: Listing, why: str):
    memory = Memory(looks=3, gets=3, asked_at=BEGIN)

    assert step(unfinished(), shown, memory=memory, age=timedelta(days=3)) == GiveUp(
        unfinished(), "t1", f"given up after 3 days without an end: {why}"
    )


def test_no_training_is_given_up_before_three_checks():
    decided = step(unfinished(), listing(), memory=Memory(looks=2, gets=3, asked_at=BEGIN), age=timedelta(days=30))

    assert decided == Wait(unfinished(), is_absent=True)


def test_an_end_is_told_however_late():
    found = replicates()
    memory = Memory(looks=9, gets=3, asked_at=BEGIN)

    assert step(unfinished(), listing(found), memory=memory, age=timedelta(days=9)) == Report(unfinished(), found)


def test_long_verification_is_retried_without_asking_replicate():
    verifying = unfinished(stage=Stage.VERIFYING)

    assert oldest([Watched(verifying)]) is None
    assert step(verifying, Listing()) == RetryExtraction(verifying)


def test_endless_verification_is_given_up():
    verifying = unfinished(stage=Stage.VERIFYING, updated_at=BEGIN + 66 * HOUR)
    too_soon, enough = 72 * HOUR - MINUTE, 72 * HOUR

    assert step(verifying, Listing(), memory=Memory(looks=2), age=9 * enough) == RetryExtraction(verifying)
    assert step(verifying, Listing(), memory=Memory(looks=9), age=too_soon) == RetryExtraction(verifying)
    assert step(verifying, Listing(), memory=Memory(looks=3), age=enough) == GiveUp(
        verifying,
        "t1",
        "given up after 3 days without an end: its model has not been verified since 2026-11-27 02:00 UTC",
    )


# Trainings whose id nobody knows


@pytest.mark.parametrize("status", ["starting", "processing", "succeeded", "failed"])
def test_training_without_id_is_found_by_signed_address(status: str):
    found = replicates(status=status, webhook=address_of(nameless()))

    assert step(nameless(), listing(found)) == Report(nameless(), found)


def test_one_known_by_its_address_is_asked_for_by_the_lists_id():
    found = replicates(output=None, webhook=address_of(nameless()))

    assert step(nameless(), listing(found)) == Fetch(nameless(), "t1")


def test_one_known_by_its_address_is_given_up_by_the_lists_id():
    found = replicates(status="processing", webhook=address_of(nameless()))

    decided = step(nameless(), listing(found), memory=Memory(looks=3), age=timedelta(days=3))

    assert decided == GiveUp(
        nameless(), "t1", "given up after 3 days without an end: Replicate still says 'processing'"
    )


def test_one_verified_without_an_id_is_looked_at_again_for_ever():
    verifying = unfinished(training_id=None, stage=Stage.VERIFYING)

    assert step(verifying, Listing(), memory=Memory(looks=9), age=timedelta(days=9)) == RetryExtraction(verifying)


@pytest.mark.parametrize(
    "webhook",
    [
        address_of(nameless(), secret="of-somebody-else"),
        address_of(nameless(2)),
        "https://hooks.example.com/webhooks/replicate",
        "https://hooks.example.com/?ref=x&ref=y",
        "http://[",
    ],
)
def test_a_training_with_another_address_is_not_it(webhook: str):
    assert step(nameless(), listing(replicates(webhook=webhook))) == Wait(nameless(), is_absent=True)


def test_candidate_without_address_must_fit_otherwise():
    found = replicates(created_at=(BEGIN + MINUTE).isoformat())

    assert step(nameless(), listing(found)) == Identify(nameless(), (found,), Wait(nameless(), is_absent=True))


def test_candidates_of_others_do_not_keep_it_from_ending():
    found = replicates(created_at=(BEGIN + MINUTE).isoformat())

    decided = step(nameless(), listing(found), memory=Memory(looks=2, absences=2), age=3 * HOUR)

    assert isinstance(decided, Identify)
    assert isinstance(decided.otherwise, NeverStarted)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "ostris/another"},
        {"created_at": (BEGIN - 2 * MINUTE).isoformat()},
        {"created_at": (BEGIN + 6 * MINUTE).isoformat()},
        {"created_at": None},
        {"status": "processing"},
        {"status": "failed"},
        {"output": None},
        {"output": {"version": "acme/bob:" + "a" * 64}},
        {"output": {"version": "a" * 64}},
    ],
    ids=str,
)
def test_one_of_which_anything_does_not_fit_is_not_it(other: dict[str, Any]):
    assert step(nameless(), listing(replicates(**other))) == Wait(nameless(), is_absent=True)


def test_one_that_may_be_two_of_ours_is_neither():
    watched = [Watched(nameless(1)), Watched(nameless(2))]

    decided = plan(watched, listing(replicates(id="x")), now=BEGIN + HOUR, limits=LIMITS)

    assert decided == [Wait(nameless(1), is_absent=True), Wait(nameless(2), is_absent=True)]


def test_what_may_be_a_training_that_is_not_due_is_nobody_elses():
    due, other = nameless(1), nameless(2, requested_at=BEGIN + MINUTE)
    shown = listing(replicates(id="x"))

    (alone,) = plan([Watched(due)], shown, now=BEGIN + HOUR, limits=LIMITS)
    (beside,) = plan([Watched(due)], shown, now=BEGIN + HOUR, limits=LIMITS, others=[other])

    assert isinstance(alone, Identify)
    assert beside == Wait(due, is_absent=True)


def test_a_training_that_the_list_never_showed_was_never_started():
    decided = step(nameless(), listing(), memory=Memory(looks=2, absences=2), age=3 * HOUR)

    assert decided == NeverStarted(nameless(), "it was never started: Replicate does not list it, after 3 looks")


@pytest.mark.parametrize(
    ("absences", "age", "shown"),
    [
        (1, 3 * HOUR, listing()),
        (2, 3 * HOUR - MINUTE, listing()),
        (2, 3 * HOUR, listing(replicates(id="x", model="another/one"), is_whole=False)),
        (2, 3 * HOUR, listing(is_whole=False)),
    ],
    ids=["looked too seldom", "too soon", "the list was not read that far back", "the list was not read"],
)
def test_nobody_says_too_soon_that_a_training_was_never_started(absences: int, age: timedelta, shown: Listing):
    memory = Memory(looks=absences, absences=absences)

    assert isinstance(step(nameless(), shown, memory=memory, age=age), Wait)


def test_a_training_that_progress_was_heard_of_was_started():
    running = unfinished(training_id=None)

    assert isinstance(step(running, listing(), memory=Memory(looks=2, absences=2), age=3 * HOUR), Wait)
    assert isinstance(step(running, listing(), memory=Memory(looks=9), age=timedelta(days=3)), NeverStarted)


def test_unstarted_training_ends_with_a_list_too_long_to_read():
    decided = step(nameless(), listing(is_whole=False), memory=Memory(looks=3), age=timedelta(days=3))

    assert decided == NeverStarted(nameless(), "no webhook came within 3 days")


NEVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_HOURS = st.integers(-1, 200).map(lambda hours: BEGIN + hours * HOUR)
_NUMBERS = st.integers(1, 3)


@st.composite
def watched_ones(draw: st.DrawFn) -> Watched:
    number = draw(_NUMBERS)
    facts: dict[str, Any] = {
        "training_id": draw(st.sampled_from([None, f"t{number}"])),
        "stage": draw(st.sampled_from(list(Stage))),
        "requested_at": draw(_HOURS),
        "started_at": draw(st.none() | _HOURS | st.sampled_from(NEVER)),
        "overdue_at": draw(st.none() | _HOURS),
        "trainer": draw(st.sampled_from([None, str(TRAINER)])),
    }
    looks, absences, gets = draw(st.tuples(*[st.integers(0, 4)] * 3))
    memory = Memory(looks, absences, gets, asked_at=draw(st.none() | _HOURS))
    return Watched(unfinished(number, **facts), memory)


@st.composite
def listed_ones(draw: st.DrawFn) -> Training:
    number = draw(_NUMBERS)
    return replicates(
        id=f"t{number}",
        status=draw(st.sampled_from(["starting", "processing", "succeeded", "failed", "of a version to come"])),
        output=draw(st.sampled_from([None, {"version": VERSION}, {"version": 7}])),
        webhook=draw(st.sampled_from([None, address_of(unfinished(number)), "http://[", "https://x/?ref=y"])),
        created_at=draw(st.none() | (_HOURS | st.sampled_from(NEVER)).map(datetime.isoformat)),
    )


@given(
    st.lists(watched_ones(), unique_by=lambda each: each.training.ref), st.lists(listed_ones()), st.booleans(), _HOURS
)
def test_every_training_has_a_step_and_every_fetch_an_id(watched, shown, is_whole, now):
    for each in watched:
        is_due(each, now, LIMITS)
        after_report(each.training, now, LIMITS)
    steps = plan(watched, listing(*shown, is_whole=is_whole), now=now, limits=LIMITS)

    assert {each.training.ref for each in steps} == {each.training.ref for each in watched}
    assert all(each.training_id for each in steps if isinstance(each, Fetch | GiveUp))


# When


@pytest.mark.parametrize(
    ("training", "due"),
    [
        (unfinished(), BEGIN + HOUR),
        (unfinished(started_at=BEGIN + MINUTE), BEGIN + HOUR + MINUTE),
        (unfinished(overdue_at=BEGIN + 9 * MINUTE), BEGIN + 9 * MINUTE),
        (nameless(overdue_at=BEGIN + 9 * MINUTE), BEGIN + 9 * MINUTE),
        (nameless(overdue_at=BEGIN + 9 * HOUR), BEGIN + HOUR),
        (unfinished(started_at=datetime.max.replace(tzinfo=UTC)), BEGIN + HOUR),
        (unfinished(started_at=datetime.min.replace(tzinfo=UTC)), BEGIN + HOUR),
    ],
)
def test_overdue_by_trainer_durations_else_by_the_limit(training: Unfinished, due: datetime):
    assert LIMITS.due_at(training) == due
    assert not is_due(Watched(training), due - MINUTE, LIMITS)
    assert is_due(Watched(training), due, LIMITS)


def test_extraction_is_not_retried_while_its_retries_last():
    # However long ago it was requested, and whoever asked for that look.
    verifying = unfinished(stage=Stage.VERIFYING, overdue_at=BEGIN, updated_at=BEGIN + 24 * HOUR)

    due = BEGIN + (24 + 3 + 1) * HOUR

    assert not is_due(Watched(verifying), due - MINUTE, LIMITS)
    assert is_due(Watched(verifying), due, LIMITS)


def test_a_look_waits_for_its_time():
    watched = Watched(unfinished(), Memory(look_at=BEGIN + 2 * HOUR))

    assert not is_due(watched, BEGIN + 2 * HOUR - MINUTE, LIMITS)
    assert is_due(watched, BEGIN + 2 * HOUR, LIMITS)


@pytest.mark.parametrize(
    ("overdue_for", "distance"),
    [(timedelta(0), MINUTE), (HOUR, HOUR / 2), (timedelta(days=2), timedelta(hours=6))],
)
def test_looks_become_rarer_with_time(overdue_for: timedelta, distance: timedelta):
    now = BEGIN + HOUR + overdue_for

    assert next_check(unfinished(), now, LIMITS) == now + distance


def test_one_never_started_ends_soon_after_a_long_outage():
    now = BEGIN + HOUR + timedelta(days=2)

    assert next_check(nameless(), now, LIMITS, is_absent=True) == now + HOUR


def test_what_was_told_is_not_told_again_at_once():
    assert after_report(unfinished(), BEGIN + HOUR, LIMITS) == BEGIN + 2 * HOUR


def test_the_longest_overdue_comes_first():
    late, later = unfinished(1, requested_at=BEGIN + MINUTE), unfinished(2)

    decided = plan([Watched(late), Watched(later)], listing(), now=BEGIN + 2 * HOUR, limits=LIMITS)

    assert [each.training for each in decided] == [later, late]


def test_a_list_shows_what_began_after_its_oldest():
    shown = listing(replicates(created_at=(BEGIN - HOUR).isoformat()), is_whole=False)

    assert shown.reaches(unfinished())
    assert not shown.reaches(unfinished(requested_at=BEGIN - HOUR))


def test_calls_come_back_with_time_and_are_not_saved_up():
    budget = CallBudget(2)

    spent = [budget.spend(at) for at in (0.0, 0.0, 1.0, 30.0, 31.0, 1000.0, 1000.0, 1000.0)]

    assert spent == [True, True, False, True, False, True, True, False]
