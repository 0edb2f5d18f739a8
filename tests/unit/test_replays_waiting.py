"""What is said of letters that were sent long ago?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from services.ops.replays.waiting import Waiting
from shared.contract.health import Health, ProcessState, Seen
from shared.contract.topology import DELIVERIES_QUEUE, EXTRACTOR_QUEUE, OPS_QUEUE, RECEIVER, STATE_QUEUE
from tests.replays import shown_replay

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG = timedelta(seconds=10)
EXTRACTOR = "extractor: consumer: Replicate answers 401"
STATE = "state: nothing listens at http://state"
NOTIFIER = "notifier: it hangs"
OPS = f"ops: {OPS_QUEUE}: Postgres is away"


def healthy(**changes: Mapping[str, str]) -> Seen:
    return Seen(ProcessState.READY, "ready", health=Health(**{"status": "ok", "version": "1", "checks": {}, **changes}))


async def looked() -> Mapping[str, Seen]:
    return {
        "receiver": Seen(ProcessState.AWAY, "nothing listens"),
        "extractor": healthy(checks={"broker": "ok", "consumer": "Replicate answers 401"}),
        "state": Seen(ProcessState.AWAY, "nothing listens at http://state"),
        "notifier": Seen(ProcessState.HANGS, "it hangs"),
        "ops": healthy(checks={"subscribers": "one blocks"}, consumers={"a": "ok", OPS_QUEUE: "Postgres is away"}),
    }


@pytest.mark.parametrize(
    ("queue", "reasons"),
    [
        (EXTRACTOR_QUEUE, [EXTRACTOR, STATE, OPS]),
        (RECEIVER, [EXTRACTOR, STATE, OPS]),
        (STATE_QUEUE, [STATE, OPS]),
        (DELIVERIES_QUEUE, [NOTIFIER, OPS]),
        (OPS_QUEUE, [OPS]),
    ],
)
async def test_a_letter_waits_for_the_processes_on_its_way(queue: str, reasons: list[str]):
    record = shown_replay(sent_since=NOON - LONG, sent_queue=queue)

    assert (await Waiting(looked).shown(record, now=NOON)).waiting_for == reasons


async def all_is_well() -> Mapping[str, Seen]:
    return dict.fromkeys(await looked(), healthy(checks={"consumer": "ok"}))


async def test_a_letter_on_a_healthy_way_waits_for_nothing():
    record = shown_replay(sent_since=NOON - LONG)

    assert (await Waiting(all_is_well).shown(record, now=NOON)).waiting_for == []


@pytest.mark.parametrize(("queue", "name"), [(EXTRACTOR_QUEUE, "extractor"), (STATE_QUEUE, "state")])
async def test_of_a_letter_that_is_retried_a_log_says_why(queue: str, name: str):
    record = shown_replay(sent_since=NOON - timedelta(minutes=1), sent_queue=queue)

    assert (await Waiting(all_is_well).shown(record, now=NOON)).waiting_for == [
        f"{name}: it has had the first of them since 11:59:00 UTC; delivery.retried in its log says why"
    ]


@pytest.mark.parametrize("sent_at", [None, NOON, NOON - LONG + timedelta(milliseconds=1)])
async def test_of_letters_that_went_just_now_nothing_is_asked(sent_at: datetime | None):
    async def never() -> Mapping[str, Seen]:
        raise AssertionError

    assert (await Waiting(never).shown(shown_replay(sent_since=sent_at), now=NOON)).waiting_for == ()
