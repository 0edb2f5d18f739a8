"""The rate budget: never more calls in a minute than Replicate allows, whoever asks, in whatever rhythm."""

from hypothesis import given
from hypothesis import strategies as st

from shared.replicate.http import Budget


def test_after_a_pause_some_may_go_at_once():
    budget = Budget(600)

    waits = [budget.take(0) for _ in range(54)]

    assert waits == [0] * 54


def test_the_next_ones_stand_in_line():
    budget = Budget(600)

    waits = [budget.take(0) for _ in range(60)]

    assert waits[54] > 0
    assert waits == sorted(waits)


def test_a_pause_fills_it_again_but_not_beyond_the_burst():
    budget = Budget(600)
    for _ in range(54):
        budget.take(0)

    waits = [budget.take(3600) for _ in range(55)]

    assert waits[53] == 0
    assert waits[54] > 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_no_minute_sees_more_calls_than_allowed(pauses):
    per_minute = 60
    budget = Budget(per_minute)
    now, calls = 0.0, []

    for pause in pauses:
        now += pause / 10
        calls.append(now + budget.take(now))

    assert all(sum(begin <= call < begin + 60 for call in calls) <= per_minute for begin in calls)
