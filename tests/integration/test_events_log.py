"""The events log on each RabbitMQ: who makes it, what it keeps, from where it is read; nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr

from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.queues import LogLimits
from shared.contract.topology import EVENTS_LOG, Topology, topology
from shared.runtime.broker import Delivery, EventsLog, Outgoing, Publisher, declare_log, diff, read_log
from shared.runtime.broker.log_reader import opened_log
from shared.runtime.clock import now
from shared.runtime.settings import TopologySettings
from tests.broker import Broker

PLAN = topology()
#: Segments of 10 kB.
SMALL = topology(log_limits=LogLimits(max_bytes=200_000))


def settings(url: str, *, declare_topology: bool = True) -> TopologySettings:
    return TopologySettings(amqp_url=SecretStr(url), declare_topology=declare_topology)


@pytest.fixture
async def broker(broker_url: str) -> AsyncIterator[Broker]:
    """A broker without a log."""
    broker = Broker(broker_url)
    await broker.delete_queue(EVENTS_LOG)
    yield broker
    await broker.delete_queue(EVENTS_LOG)


@contextlib.asynccontextmanager
async def declared(broker: Broker, plan: Topology = PLAN) -> AsyncIterator[Publisher]:
    """A log on *broker*, and a publisher."""
    async with broker.link() as link:
        assert await declare_log(link, plan) is None
    async with Publisher(broker.url, name="test", timeout_seconds=60) as publisher:
        yield publisher


def activated(number: int, size: int = 0) -> Outgoing:
    return Outgoing(EVENTS_EXCHANGE, "model.activated.v1", b"%d" % number + b" " * size, mandatory=False)


async def read(broker: Broker, offset: str | int | datetime, *, until: int) -> list[int]:
    """The numbers of the events in the log from *offset* on, up to number *until*."""
    numbers: list[int] = []
    arrived = asyncio.Event()

    def take(delivery: Delivery) -> None:
        numbers.append(int(delivery.body))
        if numbers[-1] == until:
            arrived.set()

    async with broker.link() as link, asyncio.timeout(60):
        await read_log(link, take, offset=offset, prefetch=10_000)
        await arrived.wait()
    return numbers


async def test_the_log_is_read_from_its_beginning_or_any_place_as_often_as_one_likes(broker: Broker):
    async with declared(broker) as publisher:
        for number in range(5):
            await publisher.publish(activated(number))

    assert await read(broker, "first", until=4) == [0, 1, 2, 3, 4]
    assert await read(broker, "first", until=4) == [0, 1, 2, 3, 4]
    assert await read(broker, 3, until=4) == [3, 4]


async def test_the_end_of_the_log_is_known_without_waiting_for_more(broker: Broker):
    async with declared(broker) as publisher:
        await asyncio.gather(*(publisher.publish(activated(number)) for number in range(2000)))

    numbers: list[int] = []
    async with opened_log(broker.url, "test", "first") as log, asyncio.timeout(60):
        batch = await log.take(60)
        while batch:
            numbers += [int(each.body) for each in batch]
            log.ack(batch[-1])
            batch = await log.rest()

    assert sorted(numbers) == list(range(2000))


async def test_the_log_is_read_from_a_time_on_and_never_from_later(broker: Broker):
    async with declared(broker) as publisher:
        await publisher.publish(activated(0))
        then = now().replace(microsecond=0) + timedelta(seconds=1)  # AMQP's times are whole seconds
        while now() < then:
            await asyncio.sleep(0.05)
        await publisher.publish(activated(1))
        await publisher.publish(activated(2))

    assert await read(broker, then, until=2) == [1, 2]


async def test_the_oldest_events_go_when_the_log_is_full(broker: Broker):
    async with declared(broker, SMALL) as publisher:
        # Few at a time: what is written together is one chunk, and a segment ends behind a chunk.
        for first in range(0, 800, 8):
            await asyncio.gather(*(publisher.publish(activated(first + more, size=500)) for more in range(8)))

    kept = await read(broker, "first", until=799)

    assert kept == list(range(kept[0], 800))
    assert 100_000 < len(kept) * 500 < 250_000


async def test_a_log_with_other_limits_is_used_as_it_is_and_reported(broker: Broker):
    async with broker.link() as link:
        assert await declare_log(link, Topology((*PLAN.exchanges,), SMALL.log.queues, ())) is None
        said = await declare_log(link, PLAN)
    async with Publisher(broker.url, name="test", topology=PLAN, timeout_seconds=60) as publisher:
        await publisher.publish(activated(7))

    assert said
    assert f"{EVENTS_LOG} was made with other limits than the settings have" in said
    assert "deploy/runbook.md" in said
    assert [line.partition(":")[0] for line in await diff(broker.url, PLAN.log)] == [f"queue {EVENTS_LOG}"]
    assert await read(broker, "first", until=7) == [7]


async def test_without_the_log_events_are_published_all_the_same(broker: Broker):
    async with Publisher(broker.url, name="test", topology=PLAN, timeout_seconds=60) as publisher:
        await publisher.publish(activated(1))

    assert await diff(broker.url, PLAN.log) == [f"queue {EVENTS_LOG}: missing"]


async def test_a_log_that_is_deleted_is_made_anew(broker: Broker):
    log, stopping = EventsLog(settings(broker.url), service="test", again_seconds=0.1), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    async with asyncio.timeout(60):
        await log.asked.wait()
        first = await log.check()
        await broker.delete_queue(EVENTS_LOG)
        while await diff(broker.url, PLAN.log):
            await asyncio.sleep(0.05)
        stopping.set()
        await running

    assert first is None


async def test_a_broker_that_is_away_is_no_answer_about_the_log():
    log, stopping = EventsLog(settings("amqp://127.0.0.1:1/"), service="test"), asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    async with asyncio.timeout(60):
        while "has not answered" in str(await log.check()):
            await asyncio.sleep(0.01)
        stopping.set()
        await running

    assert "does not answer" in str(await log.check())
    assert not log.asked.is_set()


async def test_where_a_deploy_job_declares_the_log_a_missing_one_is_reported_only(broker: Broker):
    log = EventsLog(settings(broker.url, declare_topology=False), service="test", again_seconds=0.1)
    stopping = asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    async with asyncio.timeout(60):
        await log.asked.wait()
        while "has not answered" in (missing := str(await log.check())):
            await asyncio.sleep(0.01)
        async with declared(broker):
            while await log.check() is not None:
                await asyncio.sleep(0.01)
        stopping.set()
        await running

    assert missing == f"there is no {EVENTS_LOG}: `modelswap topology apply`"
