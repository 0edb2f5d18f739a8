"""Following replays: what a client was told, and what it is told next."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.ops.replays.records import Ended
from services.ops.replays.streams import Follower
from tests.replays import shown_replay
from tests.state import NOON

LAST = Ended(59, NOON)
LATE = Ended(7, NOON - timedelta(seconds=3))


def test_a_late_outcome_is_told_once_and_moves_nobody_back():
    follower = Follower(NOON, asyncio.Event())
    follower.offer(shown_replay(), [LAST], [])
    before = follower.since

    assert follower.untold([LATE, LAST]) == {LATE}
    follower.offer(shown_replay(), [LATE, LAST], [])

    assert follower.untold([LATE, LAST]) == set()
    assert follower.since == before
