"""How long to wait after failures in a row."""

from __future__ import annotations

import pytest

from shared.runtime.waiting import backoff_seconds, jittered_backoff_seconds


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (10**9, 5.0)]
)
def test_the_wait_doubles_up_to_its_limit(failures: int, seconds: float):
    assert backoff_seconds(failures, first=0.5, longest=5.0) == seconds


def test_jitter_spreads_over_the_whole_wait_and_not_beyond():
    waits = [jittered_backoff_seconds(3, first=0.5, longest=5.0) for _ in range(1000)]

    assert 0 <= min(waits) < 0.5
    assert 1.5 < max(waits) <= 2.0
