"""The options that select dead letters are those of the API, and the same for every command."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.cli.operators.dead_letters import to_filter
from services.cli.operators.replays import request
from services.cli.options import LETTER_FILTERS, selects_letters
from services.cli.problem import Problem
from services.ops.letters.views import Filter


def test_there_is_an_option_for_each_field_of_the_apis_filter():
    assert set(LETTER_FILTERS) == set(Filter.model_fields)


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["7"], {"number": 7, "chosen": {}, "limit": 20}),
        (
            ["7", "--group", "3f9a0c51d2e47b68", "--training", "t1", "--since", "2h", "--limit", "5"],
            {
                "number": 7,
                "chosen": {"fingerprint": "3f9a0c51d2e47b68", "training_id": "t1", "since": "2h"},
                "limit": 5,
            },
        ),
    ],
)
def test_a_command_gets_the_selection_beside_its_own_options(typed: list[str], given: dict[str, Any]):
    got: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @selects_letters(by_status=True)
    def command(*, number: int, chosen: Mapping[str, str], limit: int = 20) -> None:
        got.update(number=number, chosen=chosen, limit=limit)

    result = CliRunner().invoke(app, typed)

    assert (result.exit_code, got) == (0, given)


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2h", "3h"),
        ("2h", "2h"),
        ("2026-11-24T12:00Z", "2026-11-24T12:00Z"),
        ("2026-11-24T11:30Z", "2026-11-24T12:00+01:00"),
    ],
)
def test_a_window_that_ends_before_it_begins_is_refused(since: str, until: str):
    with pytest.raises(Problem, match="is not before --until"):
        to_filter({"since": since, "until": until})


@pytest.mark.parametrize(("rate", "stop_share"), [(math.nan, None), (None, math.nan)])
def test_a_pace_that_is_no_number_is_refused(rate: float | None, stop_share: float | None):
    with pytest.raises(Problem, match="nan is no number"):
        request([1], {}, reason="fixed", rate=rate, steps=None, stop_share=stop_share)


def test_a_window_may_be_open_and_span_offsets():
    window = to_filter({"since": "2026-11-24T12:30+01:00", "until": "2026-11-24T12:00Z", "queue": "q"})

    assert window == {"since": "2026-11-24T12:30:00+01:00", "until": "2026-11-24T12:00:00+00:00", "queue": "q"}
    assert to_filter({"until": "2026-11-24"}) == {"until": "2026-11-24T00:00:00+00:00"}


def test_steps_are_counts_or_what_the_api_says_of_them():
    body = request([1], {}, reason="fixed", rate=None, steps=f"1, 5%,rest,{'9' * 5000}", stop_share=None)

    assert body["steps"] == ["1", "5%", "rest", "9" * 5000]
