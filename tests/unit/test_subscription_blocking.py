"""Which queues of subscribers can hold up all others, and how operators are told."""

from __future__ import annotations

import asyncio

import pytest

from services.ops.subscriptions.answers import BoundAnswer
from services.ops.subscriptions.views import SubscriptionView
from services.ops.subscriptions.watcher import SubscriptionsWatch, described
from shared.runtime import telemetry
from shared.runtime.client import ServiceDown
from tests.counts import counted


@pytest.mark.parametrize(
    ("overflow", "state", "says"),
    [
        ("", "running", None),
        ("drop-head", "idle", None),
        ("reject-publish", "running", "q rejects events when it is full (reject-publish)"),
        ("reject-publish-dlx", "running", "q rejects events when it is full (reject-publish-dlx)"),
        ("drop-head", "down", "q takes no events: it is down"),
        ("", "minority", "q takes no events: it is minority"),
    ],
)
def test_a_queue_that_rejects_or_is_down_can_block(overflow, state, says):
    queue = BoundAnswer.model_validate({"name": "q", "state": state, "arguments": {"x-overflow": overflow}})

    assert queue.why_blocking == says


def test_many_queues_are_counted_not_listed():
    said = described([f"q{number} rejects" for number in range(7)])

    assert said is not None
    assert said.endswith("q4 rejects and 2 more")


class Broker:
    """Subscriptions on a broker that is up or down."""

    def __init__(self) -> None:
        self.blocking: list[str] = ["q rejects events"]
        self.is_down = False

    async def list_all(self) -> list[SubscriptionView]:
        return []

    async def list_blocking(self) -> list[str]:
        if self.is_down:
            raise ServiceDown("http://broker does not answer")
        return self.blocking


async def test_the_watch_names_what_it_saw_and_counts_it():
    watch, stopping = SubscriptionsWatch(Broker()), asyncio.Event()

    running = asyncio.create_task(watch.run(stopping))
    while await watch.check() is None:
        await asyncio.sleep(0)
    stopping.set()
    await running

    assert "q rejects events" in str(await watch.check())
    assert counted(telemetry.blocking_queues) == {(): 1}


async def test_the_watch_says_why_it_does_not_know():
    broker, stopping = Broker(), asyncio.Event()
    broker.is_down = True
    watch = SubscriptionsWatch(broker)

    running = asyncio.create_task(watch.run(stopping))
    while await watch.check() is None:
        await asyncio.sleep(0)
    stopping.set()
    await running

    assert await watch.check() == "http://broker does not answer"
