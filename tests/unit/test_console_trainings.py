"""The views of trainings and users, on answers of the APIs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from services.ops.api import create_api
from services.ops.console.views import formats
from services.ops.console.views.queues import EventDeliveryAnswer
from services.ops.console.views.timeline import FactAnswer, delivered, entries
from services.ops.console.views.trainings import (
    ChangeAnswer,
    ModelAnswer,
    TrainingAnswer,
    progress_of,
    user_path,
)
from services.ops.letters.views import LetterLine, LetterStatus
from services.state.timeline import FactKind
from services.state.transitions import Stage
from shared.contract.answers import Page
from shared.contract.values import Retries
from tests.console import TOKENS, signed_in
from tests.ops import OPERATOR, READER

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODEL = f"acme/ada:{'5c' * 32}"


def training(**fields: Any) -> TrainingAnswer:
    known: dict[str, Any] = dict.fromkeys(TrainingAnswer.model_fields)
    known |= {"ref": UUID(int=1), "training_id": "t1", "user_id": "ada", "generation": 1, "stage": "running"}
    known |= {"current": False, "destination": "acme/ada", "trigger_word": "TOK", "progress": 0}
    known |= {"requested_at": NOON, "updated_at": NOON}
    return TrainingAnswer.model_validate({**known, **fields})


def change(generation: int, reference: str | None = MODEL, cause: str = "training") -> ChangeAnswer:
    return ChangeAnswer(
        generation=generation,
        reference=reference,
        previous_reference=None,
        training_id="t1",
        ref=UUID(int=1),
        cause=cause,
        actor="olga",
        reason="",
        at=NOON,
    )


def current(generation: int, reference: str = MODEL) -> ModelAnswer:
    return ModelAnswer(
        user_id="ada",
        reference=reference,
        generation=generation,
        training_id="t1",
        ref=UUID(int=1),
        trigger_word="TOK",
        activated_at=NOON,
    )


def fact(kind: str, seconds: float = 0, **fields: Any) -> FactAnswer:
    return FactAnswer(kind=kind, at=NOON + timedelta(seconds=seconds), **fields)


def letter(seconds: float, **fields: Any) -> LetterLine:
    at = NOON + timedelta(seconds=seconds)
    known: dict[str, Any] = dict.fromkeys(LetterLine.model_fields)
    known |= {"number": 7, "status": "open", "queue": "modelswap.extractor", "error_code": "short_version"}
    known |= {"error_class": "E", "error_text": "no model", "attempts": 3, "returns": 0, "fingerprint": "f"}
    known |= {"status_reason": ""}
    known |= dict.fromkeys(("first_failed_at", "last_failed_at", "archived_at", "status_at"), at) | {"body_bytes": 2}
    return LetterLine.model_validate({**known, **fields})


# The timeline


def test_each_entry_says_how_long_after_the_one_before():
    found = entries([fact("requested"), fact("started", 2), fact("swapped", 602)], [])

    assert [entry.after for entry in found] == [None, 2.0, 600.0]


def test_dead_letters_stand_among_the_facts():
    found = entries([fact("requested"), fact("extraction_requested", 9)], [letter(5)])

    assert [(entry.title, entry.after) for entry in found] == [
        ("Requested", None),
        ("Dead letter: short_version", 5.0),
        ("Extraction requested again", 4.0),
    ]
    assert found[1].links[0].path == "/dead-letters/7"
    assert found[1].parts[1].value == "3 attempts"


@pytest.mark.parametrize("status", LetterStatus)
def test_a_dead_letter_in_the_timeline_has_the_colour_of_its_badge(status):
    (found,) = entries([], [letter(0, status=status)])

    assert found.tone == formats.kind(status, "letter")


@pytest.mark.parametrize("event", ["failed", "canceled"])
def test_a_webhook_in_the_timeline_has_the_colour_of_its_stage(event):
    (found,) = entries([fact("reported", event=f"training.{event}.v1")], [])

    assert found.tone == formats.kind(event, "stage")


def test_a_verified_model_shows_its_evidence():
    evidence = {"shape": "version_field/model_ref", "checks": ["exists", "schema"], "seconds": 0.31}

    (found,) = entries([fact("verified", stage="active", detail={"model": MODEL, "evidence": evidence})], [])

    assert {part.label: part.value for part in found.parts} == {
        "model": MODEL,
        "checks passed": "exists, schema",
        "found by": "version_field/model_ref",
        "took": "310 ms",
    }
    assert (found.tone, found.text) == ("good", "It became the user's current model.")


def test_what_a_replay_did_leads_to_the_replay():
    (found,) = entries([fact("verified", replay="5b0f:7")], [])

    assert [link.path for link in found.links] == ["/replays/5b0f", "/dead-letters/7"]


def test_a_slow_event_says_how_late_it_was_applied():
    (found,) = entries([fact("reported", event="training.succeeded.v1", applied_at=NOON + timedelta(seconds=90))], [])

    assert found.title == "Webhook: succeeded"
    assert [(part.label, part.value) for part in found.parts] == [("applied", "1 min 30 s later")]


def test_a_success_after_retries_names_its_attempt():
    retries = Retries(attempt=3, first_failed_at=NOON, last_error="not_there_yet")
    unknown = Retries(attempt=2, first_failed_at=NOON, last_error="")

    verified, reported = entries(
        [
            fact("verified", 40, retries=retries),
            fact("reported", 50, applied_at=NOON + timedelta(seconds=55), applied_retries=unknown),
        ],
        [],
    )

    assert verified.title == "Model found and verified at attempt 3"
    assert ("retries", "40 s since the first failure; attempt 2 failed with not_there_yet", False) in verified.parts
    assert reported.parts == (("applied", "5.0 s later, at attempt 2", False),)


@pytest.mark.parametrize("kind", [*FactKind, "a_kind_of_tomorrow"])
@pytest.mark.parametrize(
    "detail", [{}, {"evidence": None, "reason": None}, {"evidence": {"checks": 1, "seconds": "x"}}]
)
def test_every_kind_of_fact_has_a_title(kind, detail):
    (found,) = entries([fact(str(kind), detail=detail)], [])

    assert found.title
    assert found.tone in {"good", "info", "warn", "bad", "quiet"}


def test_facts_at_the_same_time_keep_their_order():
    found = entries([fact("verified"), fact("swapped"), fact("published", event="model.activated.v1")], [letter(0)])

    assert [entry.title for entry in found] == [
        "Model found and verified",
        "Swapped in",
        "Published: model.activated",
        "Dead letter: short_version",
    ]


def delivery(status: str, seconds: float, **fields: Any) -> EventDeliveryAnswer:
    known: dict[str, Any] = {
        "id": UUID(int=2),
        "event": "model.activated.v1",
        "event_id": "e1",
        "attempts": 1,
        "took_ms": 9,
    }
    known |= {"response_status": 200, "response": None, "took_ms": 9, "url": "https://hooks.example.com"}
    return EventDeliveryAnswer.model_validate(
        {**known, "status": status, "status_at": NOON + timedelta(seconds=seconds), **fields}
    )


def test_the_walk_ends_at_the_subscriber():
    found = entries([fact("published")], [], [delivery("retrying", 9, response_status=500, response="oops")])

    assert (found[-1].title, found[-1].tone) == ("Not delivered yet, and tried again: model.activated", "warn")
    assert found[-1].text == "It answered 500. oops."


def test_only_the_newest_public_events_are_looked_for():
    facts = [fact("verified", event_id=str(number)) for number in range(9)] + [fact("reported", event_id="x")]

    assert delivered(facts) == ["3", "4", "5", "6", "7", "8"]


# Progress


def test_progress_by_the_log_and_by_an_estimate_are_told_apart():
    by_log = progress_of(training(progress=40, progress_source="log", step=400, total_steps=1000), NOON)
    guessed = progress_of(training(progress=40, progress_source="estimate"), NOON)

    assert (by_log.is_estimate, by_log.steps) == (False, "step 400 of 1,000")
    assert (guessed.is_estimate, guessed.steps) == (True, "")


@pytest.mark.parametrize(
    ("facts", "percent"),
    [({}, None), ({"started_at": NOON}, 0), ({"progress": 5}, 5), ({"progress": 5, "started_at": NOON}, 5)],
)
def test_progress_is_no_number_while_nothing_is_known(facts, percent):
    assert progress_of(training(**facts), NOON).percent == percent


def test_the_time_left_has_its_range():
    found = progress_of(training(eta_seconds=310, eta_low_seconds=200, eta_high_seconds=600), NOON)

    assert (found.left, found.band) == ("about 5 min left", "3 min to 10 min")
    assert (progress_of(training(), NOON).left, progress_of(training(), NOON).band) == ("", "")


def test_a_training_beyond_its_time_takes_longer_than_usual():
    found = progress_of(training(overdue_at=NOON - timedelta(seconds=1), eta_low_seconds=0), NOON)

    assert (found.is_late, found.left) == (True, "longer than usual")


def test_a_training_is_late_once_it_should_have_ended():
    assert progress_of(training(overdue_at=NOON - timedelta(seconds=1)), NOON).is_late
    assert not progress_of(training(overdue_at=NOON), NOON).is_late


@pytest.mark.parametrize("stage", Stage)
def test_buttons_follow_the_stage(stage):
    each = training(stage=stage)

    assert each.may_retry == (stage in {Stage.VERIFYING, Stage.UNVERIFIED})
    assert each.may_cancel == (stage in {Stage.REQUESTED, Stage.RUNNING})
    assert not training(stage=stage, training_id=None).may_cancel


# The user


def test_only_another_model_can_be_rolled_back_to():
    other = f"acme/ada:{'0f' * 32}"
    history = [change(3), change(2, other), change(1)]

    assert [each.is_current(current(3)) for each in history] == [True, False, False]
    assert [each.may_be_target(current(3)) for each in history] == [False, True, False]


def test_after_a_withdrawal_every_model_can_be_used_again():
    history = [change(2, None, "withdrawal"), change(1)]

    assert [(each.title, each.may_be_target(None)) for each in history] == [
        ("Withdrawn", False),
        ("Swapped in", True),
    ]


@pytest.mark.parametrize(("token", "offered"), [(OPERATOR, 1), (READER, 0)])
async def test_a_reader_is_offered_no_rollback(token, offered):
    state = FastAPI()

    @state.get("/v1/users/ada/model")
    async def model() -> ModelAnswer:
        return current(2)

    @state.get("/v1/users/ada/model/history")
    async def history() -> Page[ChangeAnswer]:
        return Page(items=[change(2), change(1, f"acme/ada:{'0f' * 32}")], next_cursor=None)

    @state.get("/v1/users/ada/trainings")
    async def trainings() -> Page[TrainingAnswer]:
        return Page(items=[training()], next_cursor=None)

    async with signed_in(create_api(tokens=TOKENS), state, token=token) as browser:
        shown = await browser.get("/users/ada")

    assert shown.text.count("Roll back to this model") == offered


def test_a_swap_by_a_replay_leads_to_the_replay_and_the_letter():
    replay = "5b0f6d52-3c1e-4f0e-9a55-6d6f64737770"
    by_replay = change(1, cause="replay").model_copy(update={"reason": f"replay {replay}:7"})

    assert by_replay.why.links == ((f"/replays/{replay}", "replay 5b0f6d52"), ("/dead-letters/7", "dead letter 7"))


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        ("training", "", "Its training ended, and the model was verified."),
        ("rollback", "too dark", "“too dark”"),
        ("replay", "by hand", "“by hand”"),
        ("withdrawal", "", "No reason was given."),
    ],
)
def test_every_change_says_why(cause, reason, words):
    assert change(1, cause=cause).model_copy(update={"reason": reason}).why.text == words


def test_an_ended_training_says_how_long_it_ran():
    ran = training(started_at=NOON, completed_at=NOON + timedelta(minutes=9))

    assert (ran.took, training().took) == ("took 9 min", "")


# Addresses


def test_any_user_id_makes_one_segment_of_an_address():
    assert user_path("a/b?c#d%") == "/users/a%2Fb%3Fc%23d%25"
    assert user_path("ada", rollback=MODEL).startswith("/users/ada?rollback=acme%2Fada%3A5c")
