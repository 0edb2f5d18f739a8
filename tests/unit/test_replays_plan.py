"""What is next in a replay, and what does an answer mean for a letter?"""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.ops.replays.outcomes import describe, is_outcome
from services.ops.replays.plan import (
    Counts,
    Done,
    Outcome,
    Rules,
    Send,
    SetModel,
    Stop,
    Wait,
    decide,
    model_before,
    step_ends,
    why_not_replayable,
)
from services.ops.replays.views import StartReplay
from shared.contract.topology import EXTRACTOR_QUEUE, OPS_QUEUE, PROGRESS_QUEUE, RECEIVER, STATE_QUEUE
from shared.contract.values import Effect
from tests.replays import settled


@pytest.mark.parametrize(
    ("steps", "total", "expected"),
    [
        ([1, "5%", "rest"], 200, [1, 11, 200]),
        ([1, "5%", "rest"], 1, [1]),
        ([1, "5%", "rest"], 2, [1, 2]),
        (["rest"], 7, [7]),
        (["10%"], 1000, [100, 1000]),
        (["3", "rest"], 10, [3, 10]),
        ([5], 3, [3]),
        (["0.5%", "rest"], 1000, [5, 1000]),
    ],
)
def test_steps_end_after_so_many_letters(steps, total, expected):
    assert step_ends(steps, total) == expected


@pytest.mark.parametrize("step", [0, -1, "0%", "half", "", "1%%", True])
def test_what_is_no_step_is_refused(step):
    with pytest.raises(ValidationError, match="steps"):
        StartReplay(letters=(1,), reason="fixed", steps=(step,))


RULES = Rules(steps=(1, 11, 200), stop_share=0.2)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(waiting=200), Send(1)),
        (Counts(waiting=199, sent=1), Wait()),
        (Counts(waiting=199, ended=1), Send(10)),
        (Counts(waiting=195, sent=4, ended=1), Send(6)),
        (Counts(waiting=189, sent=3, ended=8), Wait()),
        (Counts(waiting=189, ended=11), Send(189)),
        (Counts(sent=1, ended=199), Wait()),
        (Counts(ended=200), Done()),
        (Counts(ended=200, failed=200), Done()),
    ],
)
def test_a_step_waits_for_every_outcome_of_the_one_before(counts, expected):
    assert decide(RULES, counts) == expected


@pytest.mark.parametrize(
    ("counts", "stops"),
    [
        # After a step, even one outcome counts; within one, a few say nothing.
        (Counts(waiting=199, ended=1, failed=1), True),
        (Counts(waiting=192, sent=3, ended=5, failed=3), False),
        (Counts(waiting=171, sent=20, ended=9, failed=9), False),
        (Counts(waiting=171, sent=19, ended=10, failed=3), True),
        (Counts(waiting=171, sent=19, ended=10, failed=2), False),
        (Counts(waiting=150, sent=20, ended=30, failed=7), True),
        # No more than the share is no reason.
        (Counts(waiting=150, sent=20, ended=30, failed=6), False),
        # With nothing left to send there is nothing to stop.
        (Counts(waiting=0, sent=20, ended=180, failed=100), False),
    ],
)
def test_it_stops_when_too_many_failed(counts, stops):
    assert isinstance(decide(RULES, counts), Stop) is stops


@pytest.mark.parametrize(("share", "said"), [(0.005, "0.5%"), (0.07, "7%"), (0.125, "12.5%"), (0, "0%")])
def test_the_share_at_which_it_stops_is_said_as_it_was_given(share, said):
    stopped = decide(Rules((200,), share), Counts(waiting=150, ended=50, failed=20))

    assert stopped == Stop(f"20 of 50 failed, which is more than {said}")


def test_counts_leave_out_planned_and_skipped_letters():
    outcomes = dict.fromkeys(Outcome, 1)

    assert Counts.of(outcomes) == Counts(waiting=1, sent=1, failed=1, ended=7)


def test_what_was_forgiven_does_not_stop_it_again():
    counts = Counts(waiting=150, ended=50, failed=20)

    assert decide(RULES, counts) == Stop("20 of 50 failed, which is more than 20%")
    assert decide(Rules(RULES.steps, 0.2, forgiven_ended=50, forgiven_failed=20), counts) == Send(150)


def test_zero_share_stops_at_the_first_failure():
    rules = Rules(steps=(1, 10), stop_share=0)

    assert isinstance(decide(rules, Counts(waiting=9, ended=1, failed=1)), Stop)
    assert decide(rules, Counts(waiting=9, ended=1)) == Send(9)


@pytest.mark.parametrize(
    ("queue", "event_type", "said", "expected"),
    [
        (EXTRACTOR_QUEUE, "training.succeeded.v1", {"event": "model.ready.v1"}, True),
        (STATE_QUEUE, "model.ready.v1", {"event": "model.ready.v1"}, True),
        (STATE_QUEUE, "training.succeeded.v1", {"event": "training.succeeded.v1"}, True),
        # What the receiver had goes to both: the model comes from the extractor.
        (RECEIVER, None, {"event": "training.succeeded.v1"}, False),
        (RECEIVER, None, {"event": "model.ready.v1"}, True),
        (RECEIVER, None, {"event": "training.failed.v1"}, True),
        # The dead letter tells of it.
        (EXTRACTOR_QUEUE, "training.succeeded.v1", {"event": "extraction.failed.v1", "error": "no_model"}, False),
        (STATE_QUEUE, "extraction.failed.v1", {"event": "extraction.failed.v1", "error": "no_model"}, True),
        # There is none of this one: state asks again, or sees that there is nothing to ask.
        (
            EXTRACTOR_QUEUE,
            "training.succeeded.v1",
            {"event": "extraction.failed.v1", "error": "destination_unknown", "stage": "verifying"},
            False,
        ),
        (
            EXTRACTOR_QUEUE,
            "training.succeeded.v1",
            {"event": "extraction.failed.v1", "error": "destination_unknown", "stage": "active"},
            True,
        ),
    ],
)
def test_what_state_says_may_be_the_end_or_a_step_on_the_way(queue, event_type, said, expected):
    assert is_outcome(queue, event_type, settled("a-mark", **said)) is expected


@pytest.mark.parametrize(
    ("queue", "is_replayable"),
    [
        (EXTRACTOR_QUEUE, True),
        (STATE_QUEUE, True),
        (OPS_QUEUE, True),
        (RECEIVER, True),
        (PROGRESS_QUEUE, False),
        ("somebody.elses", False),
    ],
)
def test_only_what_somebody_of_ours_consumes_can_be_replayed(queue, is_replayable):
    assert (why_not_replayable(queue) is None) is is_replayable


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([SetModel(5, "v5", "v3")], "v3"),
        ([SetModel(5, "v5", None)], None),
        # One after the other: back to what was before both.
        ([SetModel(7, "v7", "v5"), SetModel(5, "v5", "v3")], "v3"),
        # Another came in between, and that is what was replaced.
        ([SetModel(9, "v9", "v7"), SetModel(5, "v5", "v3")], "v7"),
    ],
)
def test_what_a_user_had_before_a_replay(models, expected):
    assert model_before(models) == expected


@pytest.mark.parametrize("effect", [effect for effect in Effect if effect is not Effect.DELIVERED])
def test_every_effect_has_its_words(effect):
    assert "user ada" in describe(settled("a-mark", effect))


def test_superseded_by_withdrawal_names_no_newer_model():
    said = describe(settled("a-mark", Effect.SUPERSEDED, model=None, generation=None, previous=None))

    assert said == "superseded: the model of user ada was withdrawn after this training was requested"
