"""When the oldest waiting message of a queue arrived, from counts of what arrived."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.ops.queues import Arrivals

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def arrivals() -> Arrivals:
    """Ten messages before the first look; then five each in the second and the third minute."""
    arrivals = Arrivals()
    for minute, arrived in enumerate((10, 10, 15, 20)):
        arrivals.note({"generator": arrived}, at=NOON + minute * MINUTE)
    return arrivals


@pytest.mark.parametrize(
    ("waiting", "minute"),
    [(0, None), (1, 3), (5, 3), (6, 2), (10, 2), (11, None), (20, None)],
    ids=["none waits", "the last", "all of a minute", "one more", "all that were seen", "one before", "all"],
)
def test_the_oldest_arrived_when_the_count_passed_it(arrivals, waiting, minute):
    oldest = arrivals.oldest("generator", arrived=20, waiting=waiting, now=NOON + 9 * MINUTE)

    assert oldest == (None if minute is None else NOON + minute * MINUTE)


def test_an_event_after_the_last_sample_arrived_now(arrivals):
    assert arrivals.oldest("generator", arrived=21, waiting=1, now=NOON + 9 * MINUTE) == NOON + 9 * MINUTE


def test_a_restart_of_the_count_forgets_what_was_before(arrivals):
    arrivals.note({"generator": 3}, at=NOON + 4 * MINUTE)

    assert arrivals.oldest("generator", arrived=3, waiting=1, now=NOON + 9 * MINUTE) is None


def test_a_removed_subscription_is_forgotten(arrivals):
    arrivals.note({}, at=NOON + 4 * MINUTE)

    assert arrivals.oldest("generator", arrived=20, waiting=1, now=NOON + 9 * MINUTE) is None


def test_samples_of_many_days_stay_few_and_keep_the_oldest():
    arrivals = Arrivals()
    for number in range(5000):
        arrivals.note({"generator": number}, at=NOON + number * MINUTE)

    oldest = arrivals.oldest("generator", arrived=5000, waiting=4000, now=NOON + 5000 * MINUTE)

    assert oldest is not None
    assert timedelta(0) <= oldest - (NOON + 1001 * MINUTE) < 30 * MINUTE
