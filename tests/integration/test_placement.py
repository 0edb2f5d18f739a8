"""Where a queue is placed in a cluster counts when it is made; one that exists is used as it is placed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import cast

import aiormq
import pytest

from shared.contract.queues import Queue
from shared.contract.topology import Topology, topology
from shared.runtime.broker import TopologyMismatch, declare, diff
from shared.runtime.broker.link import Link

pytestmark = pytest.mark.every_rabbitmq

NAME = "test.placed"


def plan(kind: str, replicas: int | None) -> Topology:
    """One of our queues of that *kind*, under a name of its own."""
    ours = next(each for each in topology(replicas=replicas).queues if each.arguments["x-queue-type"] == kind)
    return Topology((), (replace(ours, name=NAME),), ())


def with_arguments(queue: Queue, arguments: Mapping[str, str | int]) -> Topology:
    return Topology((), (replace(queue, arguments={**queue.arguments, **arguments}),), ())


@pytest.fixture
async def link(broker_url: str) -> AsyncIterator[Link]:
    link = await Link.open(broker_url, name="test")
    try:
        yield link
    finally:
        await link.channel.queue_delete(NAME)
        await link.close()


class Counted:
    """A channel that counts the channels which are opened beside it."""

    def __init__(self, channel: aiormq.Channel) -> None:
        self._channel = channel
        self.opened = 0
        self.connection = self
        self.queue_bind = channel.queue_bind

    async def channel(self) -> aiormq.abc.AbstractChannel:
        self.opened += 1
        return await self._channel.connection.channel()


async def test_queues_are_declared_on_one_channel_beside_ours(link: Link):
    counted = Counted(link.channel)
    placed = replace(plan("quorum", None), queues=plan("quorum", None).queues * 3)

    await declare(cast(aiormq.Channel, counted), placed)
    as_placed = counted.opened
    await declare(cast(aiormq.Channel, counted), replace(placed, queues=plan("quorum", 3).queues))

    assert as_placed == 1
    # One refusal for each argument of the placement.
    assert counted.opened - as_placed == 3


@pytest.mark.parametrize("kind", ["quorum", "stream", "classic"])
@pytest.mark.parametrize(("before", "after"), [(None, 3), (3, None), (3, 5)])
async def test_an_existing_queue_may_be_placed_otherwise(
    link: Link, broker_url: str, kind: str, before: int | None, after: int | None
):
    await declare(link.channel, plan(kind, before))

    await declare(link.channel, plan(kind, after))

    assert link.is_open
    assert await diff(broker_url, plan(kind, after)) == []


@pytest.mark.parametrize(("before", "after"), [(None, 3), (3, 3), (3, 5)])
async def test_what_differs_beside_the_placement_is_refused(
    link: Link, broker_url: str, before: int | None, after: int | None
):
    await declare(link.channel, plan("quorum", before))
    other = with_arguments(plan("quorum", after).queues[0], {"x-max-length": 7})

    with pytest.raises(TopologyMismatch, match="'x-max-length' for queue"):
        await declare(link.channel, other)
    assert ["differs" in line for line in await diff(broker_url, other)] == [True]
