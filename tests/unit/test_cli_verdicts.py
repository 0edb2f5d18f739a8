"""What today's parser says of a past output, beside the model that its training has."""

from __future__ import annotations

from typing import Any

import pytest

from services.cli.backtest.verdicts import Group, Judged, Past, Verdict, grouped, judge
from shared.contract.identity import ModelName, ModelRef

VERSION = "a" * 64
MODEL = ModelRef("acme", "ann", VERSION)
OTHER = ModelRef("acme", "ann", "b" * 64)


def past(output: Any, model: ModelRef | None = None, *, name: str = "t1") -> Past:
    return Past(
        training_id=name,
        user_id="ann",
        output=output,
        destination=ModelName("acme", "ann"),
        trainer="ostris/trainer",
        trainer_version="c" * 64,
        model=model,
    )


@pytest.mark.parametrize(
    ("output", "model", "verdict", "found"),
    [
        ({"version": str(MODEL)}, None, Verdict.FOUND, MODEL),
        ({"version": str(MODEL)}, MODEL, Verdict.SAME, MODEL),
        ({"version": str(MODEL)}, OTHER, Verdict.DIFFERENT, MODEL),
        ({"weights": "https://replicate.delivery/x.tar"}, None, Verdict.FAILS, None),
        ({"weights": "https://replicate.delivery/x.tar"}, MODEL, Verdict.LOST, None),
        (None, None, Verdict.ASKS, None),
        ({"version": "acme/ann:" + VERSION[:8]}, None, Verdict.ASKS, None),
    ],
)
def test_a_verdict_compares_todays_result_with_the_model(
    output: Any, model: ModelRef | None, verdict: Verdict, found: ModelRef | None
):
    judged = judge(past(output, model))

    assert (judged.verdict, judged.model) == (verdict, found)
    assert judged.code


def test_a_model_at_another_destination_still_fails():
    assert judge(past({"version": "somebody/else:" + VERSION})).verdict is Verdict.FAILS


def test_groups_say_how_many_the_most_frequent_first():
    good, bad = {"version": str(MODEL)}, {"weights": "https://replicate.delivery/x.tar"}
    judged = [judge(past(output, name=f"t{number}")) for number, output in enumerate([good, bad, bad])]

    assert grouped(judged) == [
        Group(Verdict.FAILS, judged[1].code, 2, "t1"),
        Group(Verdict.FOUND, judged[0].code, 1, "t0"),
    ]


def test_a_group_of_nothing_is_none():
    assert grouped(list[Judged]()) == []
