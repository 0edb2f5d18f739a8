"""Whether the events log continues from where the notifier was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.notifier.position import Position

LAST = Position(datetime(2026, 11, 29, 12, tzinfo=UTC), 41, "a-hash")


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (LAST, 0),
        (replace(LAST, offset=42, fingerprint="another"), 0),
        (replace(LAST, offset=45, fingerprint="another"), 3),
    ],
    ids=["the last event", "the next one", "one long after"],
)
def test_events_that_are_gone_are_counted(found, missed):
    assert LAST.missed_before(found) == missed


@pytest.mark.parametrize("found", [replace(LAST, fingerprint="another"), replace(LAST, offset=40)])
def test_another_event_at_the_offset_is_another_log(found):
    assert LAST.missed_before(found) is None
