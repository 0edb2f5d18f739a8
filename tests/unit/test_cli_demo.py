"""The demo does not claim what it has not seen."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.cli.local.promises import Readings, promises
from services.state.transitions import Stage
from services.state.views import FailureView, ModelView, TrainingView
from shared.contract.identity import ModelName, ModelRef

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def training(user: str, stage: Stage, version: str = "b") -> TrainingView:
    failed = stage is Stage.FAILED
    return TrainingView(
        ref=UUID(int=1),
        training_id=f"{user}-{version}",
        user_id=user,
        generation=2,
        activated_generation=None if failed else 2,
        stage=stage,
        current=not failed,
        destination=ModelName("demo", user),
        trainer=None,
        trigger_word="",
        progress=0 if failed else 100,
        progress_source=None,
        step=None,
        total_steps=None,
        eta_seconds=None,
        eta_low_seconds=None,
        eta_high_seconds=None,
        overdue_at=None,
        reference=None if failed else ModelRef("demo", user, version * 64),
        failure=FailureView(code="training_failed", reason="out of memory") if failed else None,
        requested_at=NOW,
        started_at=NOW,
        completed_at=NOW,
        updated_at=NOW,
    )


def model(user: str, version: str) -> ModelView:
    return ModelView(
        user_id=user,
        reference=ModelRef("demo", user, version * 64),
        owner="demo",
        name=user,
        version=version * 64,
        generation=1,
        training_id=f"{user}-{version}",
        ref=UUID(int=1),
        trigger_word="",
        activated_at=NOW,
    )


ENDED = [training("ann", Stage.ACTIVE), training("ben", Stage.FAILED), training("cleo", Stage.ACTIVE)]
SEEN: dict[str, list[ModelView | None]] = {
    "ann": [None, model("ann", "b")],
    "ben": [model("ben", "a")],
    "cleo": [model("cleo", "a"), model("cleo", "b")],
}


def kept(ended: list[TrainingView], seen: dict[str, list[ModelView | None]]) -> list[bool]:
    readings = [Readings(user, 100, answers) for user, answers in seen.items()]
    return [is_kept for _, is_kept in promises(ended, readings)]


def test_all_is_kept_when_it_went_as_promised():
    assert kept(ENDED, SEEN) == [True, True, True]


@pytest.mark.parametrize(
    ("user", "answers", "expected"),
    [
        pytest.param("ann", [None], [False, True, True], id="no model came"),
        pytest.param("ann", [None, model("ann", "c")], [False, True, True], id="another training's model"),
        pytest.param("ann", [None, model("cleo", "b")], [False, True, True], id="somebody else's model"),
        pytest.param("ben", [None], [True, False, True], id="he had none"),
        pytest.param("ben", [model("ben", "a"), None], [True, False, True], id="it was taken away"),
        pytest.param("ben", [model("ben", "a"), model("ben", "b")], [True, False, True], id="it was replaced"),
        pytest.param("cleo", [None, model("cleo", "b")], [True, True, False], id="she had none"),
        pytest.param("cleo", [model("cleo", "a")], [True, True, False], id="no swap"),
        pytest.param(
            "cleo", [model("cleo", "a"), None, model("cleo", "b")], [True, True, False], id="none for a moment"
        ),
        pytest.param(
            "cleo",
            [model("cleo", "a"), model("cleo", "b"), model("cleo", "a")],
            [True, True, False],
            id="the old one came back",
        ),
    ],
)
def test_what_went_otherwise_is_said(user, answers, expected):
    assert kept(ENDED, {**SEEN, user: answers}) == expected


def test_a_training_that_should_fail_must_fail():
    ended = [ENDED[0], training("ben", Stage.ACTIVE), ENDED[2]]

    assert kept(ended, SEEN) == [True, False, True]
