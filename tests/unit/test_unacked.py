"""Which acks leave for what was handled, and in how few frames."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.broker.link import Link
from shared.runtime.broker.message import Delivery
from shared.runtime.broker.unacked import Stale, Unacked


class Broker:
    """A link whose other end knows what is in hand, and refuses what RabbitMQ refuses."""

    def __init__(self) -> None:
        self.is_open = True
        self.lost = asyncio.Event()
        self.in_hand: list[int] = []
        self.frames: list[tuple[str, int, bool]] = []

    def send(self, frame: Any) -> None:
        tag, multiple = frame.delivery_tag, getattr(frame, "multiple", False)
        settled = [each for each in self.in_hand if each == tag or (multiple and (each <= tag or tag == 0))]
        assert settled, f"unknown delivery tag {tag}"
        self.in_hand = [each for each in self.in_hand if each not in settled]
        self.frames.append((frame.name.removeprefix("Basic."), tag, multiple))


def deliver(unacked: Unacked, tag: int, routing_key: str = "q") -> None:
    unacked.put(Delivery("q", tag, "", routing_key, {}, None, b""))


async def unacked_of(broker: Broker, number: int) -> tuple[Unacked, list[Delivery]]:
    unacked = Unacked(cast(Link, broker), "q", asyncio.Event())
    for tag in range(1, number + 1):
        broker.in_hand.append(tag)
        deliver(unacked, tag)
    return unacked, await unacked.take(number)


async def take(*deliveries: str, later: str | None = None) -> list[str]:
    """Return the batch that is taken of *deliveries*, of which "slow" can wait, and one that arrives *later*."""
    unacked = Unacked(cast(Link, Broker()), "q", asyncio.Event())
    for tag, routing_key in enumerate(deliveries, 1):
        deliver(unacked, tag, routing_key)
    taking = asyncio.create_task(unacked.take(3, can_wait={"slow"}))
    for _ in range(3):
        await asyncio.sleep(0)
    if later is not None:
        deliver(unacked, 9, later)
    return [delivery.routing_key for delivery in await taking]


async def test_delivery_that_can_wait_is_taken_with_the_next_one():
    assert await take("slow", later="fast") == ["slow", "fast"]


async def test_delivery_that_can_wait_is_taken_alone_after_a_moment():
    assert await take("slow") == ["slow"]


@pytest.mark.parametrize("deliveries", [["fast"], ["fast", "slow"], ["slow", "fast"], ["slow"] * 3])
async def test_urgent_or_full_batch_does_not_wait(deliveries: list[str]):
    assert await take(*deliveries, later="late") == deliveries


async def test_what_is_acked_in_one_turn_leaves_in_one_frame():
    broker = Broker()
    unacked, deliveries = await unacked_of(broker, 5)

    for delivery in reversed(deliveries):
        unacked.ack([delivery])
    await asyncio.sleep(0)

    assert broker.frames == [("Ack", 5, True)]


async def test_an_unfinished_delivery_is_never_acked_with_later_ones():
    broker = Broker()
    unacked, deliveries = await unacked_of(broker, 5)

    unacked.ack(deliveries[:2] + deliveries[3:])
    await asyncio.sleep(0)
    assert broker.in_hand == [3]

    unacked.ack([deliveries[2]])
    await asyncio.sleep(0)
    assert broker.in_hand == []


async def test_rejected_is_not_acked_even_below_a_later_ack():
    broker = Broker()
    unacked, deliveries = await unacked_of(broker, 3)

    unacked.reject(deliveries[1])
    unacked.ack(deliveries)
    await asyncio.sleep(0)

    assert broker.frames == [("Reject", 2, False), ("Ack", 3, True)]


async def test_acks_of_a_lost_link_are_dropped():
    broker = Broker()
    unacked, deliveries = await unacked_of(broker, 1)

    broker.is_open = False
    unacked.ack(deliveries)
    await asyncio.sleep(0)

    assert broker.frames == []


@pytest.mark.parametrize("ends", ["the link is lost", "the process stops"])
async def test_a_pause_ends_when_the_deliveries_are_not_wanted_any_more(ends: str):
    broker, stopping = Broker(), asyncio.Event()
    unacked = Unacked(cast(Link, broker), "q", stopping)

    pausing = asyncio.create_task(unacked.pause(3600))
    await asyncio.sleep(0)
    if ends == "the process stops":
        stopping.set()
    else:
        broker.is_open = False
        broker.lost.set()

    with pytest.raises(Stale):
        await asyncio.wait_for(pausing, 60)


@pytest.mark.filterwarnings("error")
@given(order=st.permutations(range(8)), turns=st.sets(st.integers(0, 7)))
def test_in_any_order_each_delivery_is_settled_once(order: list[int], turns: set[int]):
    async def run() -> None:
        broker = Broker()
        unacked, deliveries = await unacked_of(broker, 8)
        done: set[int] = set()
        for at, number in enumerate(order):
            if number == 3:
                unacked.reject(deliveries[number])
            else:
                unacked.ack([deliveries[number]])
            done.add(number + 1)
            if at in turns:
                await asyncio.sleep(0)
                assert broker.in_hand == [tag for tag in range(1, 9) if tag not in done]
        await asyncio.sleep(0)
        assert broker.in_hand == []

    asyncio.run(run())
