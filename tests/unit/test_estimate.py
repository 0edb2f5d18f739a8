"""How far is a training, and how long will it take?"""

from datetime import timedelta

import pytest

from services.state.estimate import Progress, latest, progress
from services.state.transitions import Stage
from shared.contract.events import ProgressSource
from tests.state import NOON, failed, progressed

PROVED = [Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED]


def shown(
    stage: Stage,
    *,
    after: timedelta = timedelta(0),
    percent: int | None = None,
    reported_after: timedelta | None = None,
    is_started: bool = True,
) -> Progress:
    return progress(
        stage,
        percent=percent,
        source=None if percent is None else ProgressSource.LOG,
        started_at=NOON if is_started else None,
        reported_at=None if percent is None else NOON + (reported_after or after),
        now=NOON + after,
    )


@pytest.mark.parametrize(("minutes", "percent"), [(0, 0), (10, 59), (30, 90), (60, 94), (24 * 60, 95)])
def test_without_a_log_the_time_that_passed_is_the_guess(minutes, percent):
    guess = shown(Stage.RUNNING, after=timedelta(minutes=minutes))

    assert (percent, ProgressSource.ESTIMATE, None) == (guess.percent, guess.source, guess.eta_seconds)


def test_a_guess_never_falls_and_never_reaches_the_end():
    guesses = [shown(Stage.RUNNING, after=timedelta(seconds=s)).percent for s in range(0, 20_000, 7)]

    assert guesses == sorted(guesses)
    assert max(guesses) <= 95


def test_a_clock_that_runs_behind_makes_no_negative_progress():
    assert shown(Stage.RUNNING, after=timedelta(minutes=-5)).percent == 0


def test_nothing_is_guessed_of_a_training_whose_start_is_not_known():
    assert shown(Stage.RUNNING, after=timedelta(hours=1), is_started=False).percent == 0


def test_what_the_log_said_beats_the_guess():
    said = shown(Stage.RUNNING, after=timedelta(hours=1), percent=12)

    assert (said.percent, said.source) == (12, ProgressSource.LOG)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in PROVED])
@pytest.mark.parametrize("percent", [None, 0, 99])
def test_nothing_but_a_proven_model_is_a_hundred_percent(stage, percent):
    assert shown(stage, after=timedelta(days=9), percent=percent).percent <= 99


@pytest.mark.parametrize("stage", PROVED)
def test_a_proven_model_is_a_hundred_percent(stage):
    assert shown(stage, percent=40).percent == 100


def test_a_training_that_is_being_verified_is_almost_there():
    assert shown(Stage.VERIFYING, percent=40).percent == 99


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.CANCELED])
def test_a_training_that_ended_early_stays_where_its_log_left_it(stage):
    assert shown(stage, after=timedelta(hours=5), percent=40).percent == 40


def test_the_rest_takes_as_long_as_the_log_s_pace_says():
    assert shown(Stage.RUNNING, after=timedelta(minutes=10), percent=25).eta_seconds == 30 * 60


def test_the_rest_shrinks_while_the_log_is_silent_but_not_below_nothing():
    silent = [
        shown(Stage.RUNNING, percent=50, reported_after=timedelta(minutes=10), after=timedelta(minutes=minutes))
        for minutes in (10, 15, 60)
    ]

    assert [each.eta_seconds for each in silent] == [600, 300, 0]


def test_two_percent_are_too_little_to_say_how_long_the_rest_takes():
    assert shown(Stage.RUNNING, after=timedelta(minutes=10), percent=2).eta_seconds is None


def test_of_many_reports_of_a_training_the_furthest_is_kept():
    reports = latest(
        [
            progressed("one", 0.10, step=10, total=100),
            progressed("two", None),
            progressed("one", 0.30, step=30, total=100),
            progressed("one", 0.20, step=20, total=100),
        ]
    )

    assert [(r.training_id, r.percent, r.step) for r in reports] == [("one", 30, 30), ("two", None, None)]


@pytest.mark.parametrize(("fraction", "percent"), [(0.0, 0), (0.999, 99), (1.0, 99), (None, None)])
def test_a_log_that_says_all_steps_are_done_is_not_believed_to_the_end(fraction, percent):
    assert [percent] == [report.percent for report in latest([progressed("one", fraction)])]


def test_what_is_no_report_is_left_alone():
    assert latest([failed("one")]) == []
