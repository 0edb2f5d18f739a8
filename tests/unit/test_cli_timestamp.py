"""What people type for a time."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from services.cli.options import read_timestamp
from services.cli.problem import Problem

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("30min", NOW - timedelta(minutes=30)),
        ("1 w", NOW - timedelta(weeks=1)),
        ("2026-11-24T09:30Z", datetime(2026, 11, 24, 9, 30, tzinfo=UTC)),
        ("2026-11-24 09:30", datetime(2026, 11, 24, 9, 30, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
        ("2026-11-24T09:30+01:00", datetime(2026, 11, 24, 9, 30, tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_a_time_is_read(text, expected):
    assert read_timestamp(text, now=NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "h", "999999w"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(Problem):
        read_timestamp(text, now=NOW)
