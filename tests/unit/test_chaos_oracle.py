"""The oracle of the chaos test blames what is wrong, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.simulator.knobs import Knobs
from services.simulator.requests import TrainingRequest
from services.simulator.training import Training
from shared.runtime.clock import now
from tests.chaos.oracle import Oracle, Subscriber, Use
from tests.chaos.script import CASE, Case, Ending, ScriptedWorld, script

CASES = [
    Case(0, "ada", Ending.GOOD, {}, destination="acme/ada"),
    Case(1, "ada", Ending.GOOD, {}, destination="acme/ada"),
    Case(2, "ada", Ending.BAD, {"output": []}, destination="acme/ada"),
    Case(3, "bob", Ending.GOOD, {"outcome": "failed"}, destination="acme/bob"),
]


@pytest.fixture
def oracle() -> Oracle:
    world = ScriptedWorld(Knobs(), CASES)
    for case in CASES:
        request = TrainingRequest(destination=case.destination, input={CASE: case.number})
        world.create_training(
            request, trainer="a/b", version="e" * 64, api_url="http://x", now=now() - timedelta(hours=1)
        )
    return Oracle(world, "", Subscriber(""))


def rows(oracle: Oracle, *stages: str) -> list[dict[str, Any]]:
    """What state says of all trainings, in the order of their requests."""
    return [_row(oracle, number, stage) for number, stage in enumerate(stages)]


def _row(oracle: Oracle, number: int, stage: str) -> dict[str, Any]:
    made = _training(oracle, number)
    has_model = stage in ("active", "replaced", "superseded")
    return {
        "ref": str(number),
        "training_id": made.id,
        "user_id": CASES[number].user,
        "generation": number + 1,
        "stage": stage,
        "model": f"{made.destination}:{made.makes}" if has_model else None,
        "failure_code": None if has_model else "a_code",
    }


def _training(oracle: Oracle, number: int) -> Training:
    return next(each for each in oracle.world.trainings() if each.input[CASE] == number)


def use(oracle: Oracle, *row: dict[str, Any]) -> None:
    """Let the oracle see these models, one after the other."""
    for each in row:
        oracle._judge([{key: each[key] for key in ("user_id", "generation", "model", "training_id")}])


def judged(oracle: Oracle, seen: list[dict[str, Any]], *used: dict[str, Any], letters: tuple[int, ...] = (2,)) -> str:
    """What is blamed at the end, where *used* is the history."""
    models = [each["model"] for each in used]
    history = [
        {**each, "previous_model": before} for each, before in zip(used, [None, *models], strict=False) if each["model"]
    ]
    oracle.subscriber.activated |= {Use(each["user_id"], each["generation"], each["model"]) for each in used}
    oracle._judge_stages(seen)
    oracle._judge_history(seen, history)
    sent = [
        {"queue": "q", "error_code": "e", "error_text": "t", "training_id": _training(oracle, n).id} for n in letters
    ]
    oracle._judge_letters(seen, sent)
    return "; ".join(sorted(wrong.what for wrong in oracle.wrong))


def test_a_run_in_which_all_is_right_is_not_blamed(oracle: Oracle):
    seen = rows(oracle, "replaced", "active", "unverified", "failed")
    use(oracle, seen[0], seen[1])

    assert judged(oracle, seen, seen[0], seen[1]) == ""


def test_an_older_training_that_ends_later_is_superseded(oracle: Oracle):
    seen = rows(oracle, "superseded", "active", "unverified", "failed")
    use(oracle, seen[1])

    assert judged(oracle, seen, seen[1]) == ""


def test_an_older_training_that_took_over_is_blamed(oracle: Oracle):
    seen = rows(oracle, "active", "replaced", "unverified", "failed")
    use(oracle, seen[1], seen[0])

    said = judged(oracle, seen, seen[1], seen[0])

    assert "became" in said
    assert "should use" in said
    assert "followed" in said


def test_a_user_whose_model_is_gone_is_blamed(oracle: Oracle):
    seen = rows(oracle, "replaced", "active", "unverified", "failed")
    use(oracle, seen[1])

    oracle._judge([])

    assert "has no model any more" in str(oracle.wrong)


def test_the_model_of_another_user_is_blamed(oracle: Oracle):
    of_ada = rows(oracle, "active")[0]

    use(oracle, {**of_ada, "user_id": "bob"})

    assert "none of theirs" in str(oracle.wrong)


@pytest.mark.parametrize("number", [2, 3])
def test_a_model_of_a_training_that_made_none_is_blamed(oracle: Oracle, number: int):
    use(oracle, _row(oracle, number, "active"))

    assert "no good model" in str(oracle.wrong)


def test_a_wrong_stage_is_blamed(oracle: Oracle):
    seen = rows(oracle, "replaced", "active", "unverified", "canceled")
    use(oracle, seen[0], seen[1])

    assert "is canceled (a_code), not ('failed',)" in judged(oracle, seen, seen[0], seen[1])


def test_an_event_of_a_swap_that_was_never_committed_is_blamed(oracle: Oracle):
    seen = rows(oracle, "replaced", "active", "unverified", "failed")
    use(oracle, seen[0], seen[1])
    oracle.subscriber.activated.add(Use("ada", 9, "acme/ada:x"))

    assert "never committed" in judged(oracle, seen, seen[0], seen[1])


def test_a_dead_letter_of_a_good_training_is_blamed(oracle: Oracle):
    seen = rows(oracle, "replaced", "active", "unverified", "failed")
    use(oracle, seen[0], seen[1])

    assert "should not be" in judged(oracle, seen, seen[0], seen[1], letters=(1, 2))


def test_the_same_seed_makes_the_same_script():
    assert script(7, 100) == script(7, 100) != script(8, 100)
