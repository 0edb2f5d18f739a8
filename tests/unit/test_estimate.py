"""How far is a training, and how long will it take?"""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.state.estimate import DurationStats, Progress, Run, latest, progress
from services.state.transitions import Stage
from shared.contract.values import ProgressSource
from tests.state import NOON, failed, progressed

PROVED = [Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED]


#: Of a trainer that takes twenty minutes, give or take five.
LEARNED = DurationStats(15 * 60, 20 * 60, 25 * 60)

durations = st.lists(st.floats(1, 86_400), min_size=3, max_size=3).map(lambda three: DurationStats(*sorted(three)))
ages = st.floats(0, 10 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
dates = st.datetimes(timezones=st.just(NOON.tzinfo))


def shown(
    stage: Stage,
    *,
    after: timedelta = timedelta(0),
    percent: int | None = None,
    reported_after: timedelta | None = None,
    is_started: bool = True,
    estimated_for: timedelta | None = None,
    learned: DurationStats | None = None,
) -> Progress:
    run = Run(
        stage,
        NOON,
        log_percent=percent,
        log_source=None if percent is None else ProgressSource.LOG,
        started_at=NOON if is_started else None,
        log_at=None if percent is None else NOON + (reported_after or after),
        estimated_until=None if estimated_for is None else NOON + estimated_for,
        stats_at_start=learned,
        stats=learned,
    )
    return progress(run, now=NOON + after)


@pytest.mark.parametrize(("minutes", "percent"), [(0, 0), (10, 59), (30, 90), (60, 94), (24 * 60, 95)])
def test_without_a_log_the_time_that_passed_is_the_guess(minutes, percent):
    guess = shown(Stage.RUNNING, after=timedelta(minutes=minutes))

    assert (percent, ProgressSource.ESTIMATE, None) == (guess.progress, guess.progress_source, guess.eta_seconds)


def test_a_guess_never_falls_and_never_reaches_the_end():
    guesses = [shown(Stage.RUNNING, after=timedelta(seconds=s)).progress for s in range(0, 20_000, 7)]

    assert guesses == sorted(guesses)
    assert max(guesses) <= 95


def test_a_clock_that_runs_behind_makes_no_negative_progress():
    assert shown(Stage.RUNNING, after=timedelta(minutes=-5)).progress == 0


def test_without_a_start_nothing_is_estimated():
    assert shown(Stage.RUNNING, after=timedelta(hours=1), is_started=False).progress == 0


def test_what_the_log_said_beats_the_guess():
    said = shown(Stage.RUNNING, after=timedelta(hours=1), percent=12)

    assert (said.progress, said.progress_source) == (12, ProgressSource.LOG)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in PROVED])
@pytest.mark.parametrize("percent", [None, 0, 99])
def test_nothing_but_a_proven_model_is_a_hundred_percent(stage, percent):
    assert shown(stage, after=timedelta(days=9), percent=percent).progress <= 99


@pytest.mark.parametrize("stage", PROVED)
def test_a_proven_model_is_a_hundred_percent(stage):
    assert shown(stage, percent=40).progress == 100


def test_a_training_that_is_being_verified_is_almost_there():
    assert shown(Stage.VERIFYING, percent=40).progress == 99


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.CANCELED])
def test_a_training_that_ended_early_stays_where_its_log_left_it(stage):
    assert shown(stage, after=timedelta(hours=5), percent=40).progress == 40


def test_the_rest_takes_as_long_as_the_log_s_pace_says():
    assert shown(Stage.RUNNING, after=timedelta(minutes=10), percent=25).eta_seconds == 30 * 60


def test_the_rest_shrinks_without_logs_but_not_below_zero():
    silent = [
        shown(Stage.RUNNING, percent=50, reported_after=timedelta(minutes=10), after=timedelta(minutes=minutes))
        for minutes in (10, 15, 60)
    ]

    assert [each.eta_seconds for each in silent] == [600, 300, 0]


def test_two_percent_are_too_little_for_an_estimate():
    assert shown(Stage.RUNNING, after=timedelta(minutes=10), percent=2).eta_seconds is None


# DurationStats from other trainings


@pytest.mark.parametrize(("minutes", "percent"), [(0, 0), (5, 22), (10, 45), (20, 90), (25, 93), (24 * 60, 95)])
def test_the_trainers_median_duration_is_ninety_percent(minutes, percent):
    guess = shown(Stage.RUNNING, after=timedelta(minutes=minutes), learned=LEARNED)

    assert (guess.progress, guess.progress_source) == (percent, ProgressSource.ESTIMATE)


@pytest.mark.parametrize(
    ("minutes", "low", "middle", "high"), [(0, 15, 20, 25), (10, 5, 10, 15), (18, 0, 3.5, 7), (23, 0, 1, 2)]
)
def test_without_a_log_the_rest_follows_the_trainers_durations(minutes, low, middle, high):
    guess = shown(Stage.RUNNING, after=timedelta(minutes=minutes), learned=LEARNED)

    assert [60 * low, 60 * middle, 60 * high] == [guess.eta_low_seconds, guess.eta_seconds, guess.eta_high_seconds]


def test_a_training_longer_than_others_has_no_estimate():
    late = shown(Stage.RUNNING, after=timedelta(hours=2), learned=LEARNED)

    assert (late.eta_low_seconds, late.eta_seconds, late.eta_high_seconds) == (0, 0, None)


def test_a_log_counts_the_more_the_further_it_is():
    """After five minutes: the pace says 95 or 5 minutes more, others say 15."""
    early = shown(Stage.RUNNING, after=timedelta(minutes=5), percent=5, learned=LEARNED).eta_seconds
    half = shown(Stage.RUNNING, after=timedelta(minutes=5), percent=50, learned=LEARNED).eta_seconds

    assert [early, half] == [19 * 60, 10 * 60]


def test_durations_do_not_apply_to_a_longer_training():
    slow = shown(Stage.RUNNING, after=timedelta(minutes=60), percent=50, learned=LEARNED)

    assert slow.eta_seconds == 60 * 60


def test_a_training_is_overdue_well_after_the_longest_duration():
    overdue_at = shown(Stage.RUNNING, learned=LEARNED).overdue_at

    assert overdue_at == NOON + timedelta(minutes=36)


@pytest.mark.parametrize("stage", [Stage.REQUESTED, Stage.RUNNING])
def test_a_training_can_be_overdue_without_a_known_start(stage):
    assert shown(stage, is_started=False, learned=LEARNED).overdue_at is not None


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in (Stage.REQUESTED, Stage.RUNNING)])
def test_a_training_that_has_ended_takes_no_more_time(stage):
    ended = shown(stage, percent=40, learned=LEARNED)

    assert (ended.eta_seconds, ended.eta_low_seconds, ended.eta_high_seconds, ended.overdue_at) == (None,) * 4


def test_without_durations_nothing_is_overdue_or_estimated():
    guess = shown(Stage.RUNNING, after=timedelta(hours=3))

    assert (guess.eta_seconds, guess.eta_low_seconds, guess.eta_high_seconds, guess.overdue_at) == (None,) * 4


@given(ages, ages, st.none() | durations)
def test_a_guess_only_rises_with_time(one, other, learned):
    earlier, later = (shown(Stage.RUNNING, after=after, learned=learned).progress for after in sorted((one, other)))

    assert 0 <= earlier <= later <= 95


@given(ages, st.none() | st.integers(0, 99), ages, st.none() | durations)
def test_the_band_holds_the_middle(after, percent, reported_after, learned):
    said = shown(
        Stage.RUNNING, after=after, percent=percent, reported_after=min(after, reported_after), learned=learned
    )

    if said.eta_seconds is None:
        assert (said.eta_low_seconds, said.eta_high_seconds) == (None, None)
    else:
        assert said.eta_low_seconds is not None
        assert 0 <= said.eta_low_seconds <= said.eta_seconds
        assert said.eta_high_seconds is None or said.eta_seconds <= said.eta_high_seconds


@given(st.lists(ages, min_size=1), ages, st.lists(st.integers(0, 99)), st.none() | durations, st.none() | durations)
def test_progress_never_falls_when_a_log_replaces_the_estimate(times, first_log, logs, at_start, later):
    """The log begins after *first_log*, and the statistics change meanwhile."""
    reports = iter(sorted(logs))
    last, percent, until = 0, None, None
    for after in sorted(times):
        if after >= first_log and (reported := next(reports, None)) is not None:
            percent, until = reported, until or NOON + after
        run = Run(
            Stage.RUNNING,
            NOON,
            NOON,
            percent,
            None if percent is None else ProgressSource.LOG,
            None if percent is None else NOON + after,
            until,
            at_start,
            later,
        )
        found = progress(run, now=NOON + after).progress
        assert last <= found < 100
        last = found


def test_a_log_that_is_behind_the_estimate_catches_up_first():
    behind = shown(Stage.RUNNING, percent=12, estimated_for=timedelta(minutes=10), after=timedelta(hours=1))
    ahead = shown(Stage.RUNNING, percent=60, estimated_for=timedelta(minutes=10), after=timedelta(hours=1))

    assert (behind.progress, behind.progress_source) == (59, ProgressSource.ESTIMATE)
    assert (ahead.progress, ahead.progress_source) == (60, ProgressSource.LOG)


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.CANCELED])
def test_a_training_that_ended_early_keeps_its_estimate(stage):
    assert shown(stage, after=timedelta(hours=5), estimated_for=timedelta(minutes=10)).progress == 59


@given(dates, ages, st.none() | durations)
def test_no_date_however_wrong_is_too_much(started_at, after, learned):
    run = Run(Stage.RUNNING, NOON, started_at=started_at, stats_at_start=learned, stats=learned)

    assert 0 <= progress(run, now=NOON + after).progress <= 95


def test_a_start_long_before_the_request_is_ignored():
    run = Run(Stage.RUNNING, NOON, started_at=NOON - timedelta(days=700))

    assert progress(run, now=NOON + timedelta(minutes=30)).progress == 90


def test_a_start_shortly_before_we_heard_of_the_training_counts():
    run = Run(Stage.RUNNING, NOON, started_at=NOON - timedelta(minutes=30))

    assert progress(run, now=NOON).progress == 90


# Reports


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
def test_a_complete_log_is_not_shown_as_the_end(fraction, percent):
    assert [percent] == [report.percent for report in latest([progressed("one", fraction)])]


def test_what_is_no_report_is_left_alone():
    assert latest([failed("one")]) == []
