"""The RabbitMQ user of each process may do what the process needs, and is refused the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import aiormq
import pytest
from pydantic import SecretStr

from services.cli.local.users import differences, make_users
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import PermanentError, TransientError
from shared.contract.events import (
    EVENTS_EXCHANGE,
    TRAINING_EXCHANGE,
    DeliveryRequested,
    Event,
    TrainingCanceled,
    TrainingFailed,
    TrainingProgressed,
    TrainingSucceeded,
)
from shared.contract.rights import USERS
from shared.contract.topology import (
    DEAD_QUEUE,
    DELIVERIES_QUEUE,
    EVENTS_LOG,
    EXTRACTOR_QUEUE,
    OPS_QUEUE,
    PROGRESS_QUEUE,
    STATE_QUEUE,
    topology,
)
from shared.runtime.addresses import with_login
from shared.runtime.broker import Consumer, EventsLog, Outgoing, Publisher, one_by_one, opened_log, to_message
from shared.runtime.broker.link import Link
from shared.runtime.clock import now
from shared.runtime.management import Management
from shared.runtime.settings import BrokerSettings, TopologySettings
from tests.broker import Broker
from tests.servers import Urls
from tests.webhooks import activated

DELAYS = (timedelta(milliseconds=50),)
PLAN = topology(DELAYS)
QUEUES = {EVENTS_LOG, EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE, OPS_QUEUE, DEAD_QUEUE, DELIVERIES_QUEUE}
PASSWORDS = {process: f"password-of-{process}" for process in USERS}
READS = {
    "receiver": set(),
    "extractor": {EXTRACTOR_QUEUE},
    "state": {STATE_QUEUE, PROGRESS_QUEUE},
    "ops": {OPS_QUEUE, DEAD_QUEUE},
    "notifier": {DELIVERIES_QUEUE, EVENTS_LOG},
}


@dataclass(frozen=True)
class Users:
    broker: Broker
    management: Management

    def url(self, process: str) -> str:
        return with_login(self.broker.url, USERS[process], PASSWORDS[process])

    @contextlib.asynccontextmanager
    async def channel(self, process: str) -> AsyncIterator[aiormq.Channel]:
        link = await Link.open(self.url(process), name="test")
        try:
            yield await link.open_channel()
        finally:
            await link.close()


@pytest.fixture(scope="module")
async def users(broker_urls: Urls) -> AsyncIterator[Users]:
    if not broker_urls.management_url:
        pytest.skip("the management API of this broker is not known")
    async with (
        Broker(broker_urls.amqp_url, PLAN) as broker,
        Management(broker_urls.management_url, vhost="/") as management,
    ):
        await make_users(management, PASSWORDS, PLAN)
        yield Users(broker, management)
        for user in USERS.values():
            await management.delete_user(user)


@pytest.mark.parametrize("process", USERS)
async def test_a_process_is_refused_the_queues_of_others(users, process):
    for queue in sorted(QUEUES - READS[process]):
        async with users.channel(process) as channel:
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused, match=queue):
                await channel.basic_get(queue)


@pytest.mark.parametrize(
    ("process", "forbidden"),
    [
        (
            "receiver",
            [(EVENTS_EXCHANGE, "model.activated.v1"), (TRAINING_EXCHANGE, "replay.settled.v1"), ("", STATE_QUEUE)],
        ),
        (
            "extractor",
            [(EVENTS_EXCHANGE, "model.activated.v1"), (TRAINING_EXCHANGE, "training.failed.v1"), ("", STATE_QUEUE)],
        ),
        (
            "state",
            [(EVENTS_EXCHANGE, "model.ready.v1"), (TRAINING_EXCHANGE, "training.started.v1"), ("", EXTRACTOR_QUEUE)],
        ),
        ("ops", [(EVENTS_EXCHANGE, "model.activated.v1"), (TRAINING_EXCHANGE, "replay.settled.v1")]),
        (
            "notifier",
            [(EVENTS_EXCHANGE, "model.ready.v1"), (TRAINING_EXCHANGE, "training.failed.v1"), ("", STATE_QUEUE)],
        ),
    ],
    ids=USERS,
)
async def test_a_process_is_refused_the_events_of_others(users, process, forbidden):
    for exchange, key in forbidden:
        async with users.channel(process) as channel:
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await channel.basic_publish(b"{}", exchange=exchange, routing_key=key)


@pytest.mark.parametrize("process", USERS)
async def test_a_process_may_delay_nothing_into_the_queue_of_another(users, process):
    (delay,) = PLAN.delays
    for queue in sorted(QUEUES - READS[process]):
        async with users.channel(process) as channel:
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await channel.basic_publish(b"{}", exchange=delay, routing_key=queue)


@pytest.mark.parametrize("process", USERS)
async def test_a_process_is_refused_to_declare_or_delete(users, process):
    forbidden: Sequence[Callable[[aiormq.Channel], Awaitable[object]]] = (
        lambda channel: channel.queue_declare("mine"),
        lambda channel: channel.queue_delete(STATE_QUEUE),
        lambda channel: channel.exchange_declare("mine"),
        lambda channel: channel.queue_bind(EXTRACTOR_QUEUE, TRAINING_EXCHANGE, "#"),
    )
    for work in forbidden:
        async with users.channel(process) as channel:
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await work(channel)


@pytest.mark.parametrize(
    ("process", "queue", "event"),
    [
        ("extractor", EXTRACTOR_QUEUE, TrainingSucceeded(training_id="t1", output={})),
        ("state", STATE_QUEUE, TrainingSucceeded(training_id="t1", output={})),
        (
            "notifier",
            DELIVERIES_QUEUE,
            DeliveryRequested(training_id="t1", delivery_id=uuid4(), endpoint_id=uuid4(), sending=1),
        ),
        ("state", PROGRESS_QUEUE, TrainingProgressed(training_id="t1", fraction=0.5, source="log")),
    ],
)
async def test_a_process_can_consume_retry_and_dead_letter(users, process, queue, event):
    attempts = []

    async def handle(envelope: Envelope) -> Sequence[Event]:
        attempts.append(envelope)
        # A lossy queue's delivery is not retried.
        if len(attempts) == 1 and queue != PROGRESS_QUEUE:
            raise TransientError("not yet")
        raise PermanentError("never")

    stopping = asyncio.Event()
    async with users.broker, Publisher(users.url(process), name="test", timeout_seconds=60) as publisher:
        consumer = Consumer(
            BrokerSettings(amqp_url=SecretStr(users.url(process)), retry_delays=DELAYS, declare_topology=False),
            publisher,
            queue=queue,
            service=process,
            handle=one_by_one(handle),
            batch_size=1,
        )
        running = asyncio.create_task(consumer.run(stopping))
        source = "notifier" if process == "notifier" else "receiver"
        async with Publisher(users.url(source), name="test", timeout_seconds=60) as sender:
            await sender.publish(to_message(wrap(event, source=source, now=now()), PLAN))
        await users.broker.wait_for(DEAD_QUEUE)
        stopping.set()
        await running

    assert len(attempts) == (1 if queue == PROGRESS_QUEUE else 2)


@pytest.mark.parametrize(
    "event",
    [
        TrainingSucceeded(training_id="t1", output={}),
        TrainingFailed(training_id="t1", reason="no"),
        TrainingCanceled(training_id="t1", reason="no"),
    ],
    ids=lambda event: event.key,
)
async def test_state_can_report_a_training_that_ended_before_it_was_registered(users, event):
    async with users.broker, Publisher(users.url("state"), name="test", timeout_seconds=60) as publisher:
        await publisher.publish(to_message(wrap(event, source="state", now=now()), PLAN))


async def test_the_notifier_can_read_the_log(users):
    async with Publisher(users.url("state"), name="test", timeout_seconds=60) as publisher:
        await publisher.publish(to_message(wrap(activated("ann", 1), source="state", now=now()), PLAN))

    async with opened_log(users.url("notifier"), "test", 0) as events:
        assert await events.take(20)


async def test_a_process_that_may_not_declare_the_log_reports_no_trouble_with_it(users):
    settings = TopologySettings(amqp_url=SecretStr(users.url("state")), declare_topology=False)
    log = EventsLog(settings, service="state", again_seconds=0.05)
    stopping = asyncio.Event()
    running = asyncio.create_task(log.run(stopping))
    async with asyncio.timeout(60):
        while "has not answered" in str(found := await log.check()):
            await asyncio.sleep(0.01)
        stopping.set()
        await running

    assert found is None


async def test_ops_can_publish_to_the_queue_where_a_message_failed(users):
    async with Publisher(users.url("ops"), name="test", timeout_seconds=60) as publisher:
        await publisher.publish(
            Outgoing(exchange="", routing_key=EXTRACTOR_QUEUE, body=b"{}", headers={}, mandatory=True)
        )

    await users.broker.wait_for(EXTRACTOR_QUEUE)


async def test_limits_of_a_delay_that_is_gone_are_no_difference(users):
    before = topology((*DELAYS, timedelta(milliseconds=70)))
    async with Broker(users.broker.url, before):
        await make_users(users.management, PASSWORDS, before)

    different = await differences(users.management, PLAN)
    await make_users(users.management, PASSWORDS, PLAN)

    assert different == [f"user {user}: has other rights" for user in USERS.values() if user != USERS["receiver"]]
    assert await differences(users.management, PLAN) == []


async def test_a_user_with_other_rights_is_a_difference(users):
    assert await differences(users.management, PLAN) == []

    await users.management.put("permissions", USERS["state"], body={"configure": ".*", "write": ".*", "read": ".*"})
    await users.management.delete_user(USERS["ops"])
    different = await differences(users.management, PLAN)
    await make_users(users.management, PASSWORDS, PLAN)

    assert different == ["user modelswap-state: has other rights", "user modelswap-ops: missing"]
    assert await differences(users.management, PLAN) == []
