"""What the broker runtime promises, against a real RabbitMQ of every series that can be had."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import aiormq
import pytest
from aiormq import spec
from pamqp.common import FieldTable
from pydantic import SecretStr

from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import DependencyDown, PermanentError, TransientError, code_of
from shared.contract.events import (
    Event,
    ModelReady,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.limits import EVENT_BYTES, Unpublishable
from shared.contract.queues import Queue
from shared.contract.topology import (
    DEAD_EXCHANGE,
    DEAD_QUEUE,
    EXTRACTOR_QUEUE,
    PROGRESS_QUEUE,
    STATE_QUEUE,
    Binding,
    Topology,
    topology,
)
from shared.contract.values import Retries
from shared.replicate.errors import NoAnswer
from shared.runtime import telemetry, tracing
from shared.runtime.broker import (
    Consumer,
    Outgoing,
    Publisher,
    Result,
    TopologyMismatch,
    Unconfirmed,
    Unroutable,
    declare,
    depths,
    diff,
    one_by_one,
    to_message,
)
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS
from shared.runtime.clock import now
from shared.runtime.settings import BrokerSettings
from tests.broker import Broker
from tests.collector import Traced
from tests.counts import counted, observed
from tests.hostile import HOSTILE, UNREADABLE
from tests.proxy import proxied

DELAYS = (timedelta(milliseconds=50), timedelta(milliseconds=100))
PLAN = topology(DELAYS)
Handle = Callable[[Envelope], Awaitable[Sequence[Event]]]


@pytest.fixture
async def broker(broker_url: str) -> AsyncIterator[Broker]:
    async with Broker(broker_url, PLAN) as broker:
        yield broker


@pytest.fixture
async def publisher(broker: Broker) -> AsyncIterator[Publisher]:
    async with Publisher(broker.url, name="test", topology=PLAN, timeout_seconds=60) as publisher:
        yield publisher


class Refusing(Publisher):
    """Refuses what it is told to, as a full queue does."""

    def __init__(self, url: str) -> None:
        super().__init__(url, name="test", topology=PLAN, timeout_seconds=60)
        self.refuses: Callable[[Outgoing], bool] = nothing
        self.refuses_with: Callable[[str], Exception] = Unconfirmed
        self.refused: Counter[str] = Counter()
        self.published: list[Outgoing] = []
        self._changed = asyncio.Event()

    async def publish(self, message: Outgoing) -> None:
        if self.refuses(message):
            self.refused[message.routing_key] += 1
            self._changed.set()
            raise self.refuses_with(f"a queue of {message.routing_key} is full")
        await super().publish(message)
        self.published.append(message)

    def delayed(self) -> list[Outgoing]:
        return [each for each in self.published if each.exchange.startswith("modelswap.delay.")]

    async def has_refused(self, times: int, *, routing_key: str = TrainingStarted.key) -> None:
        async with asyncio.timeout(60):
            while self.refused[routing_key] < times:
                self._changed.clear()
                await self._changed.wait()


def nothing(_: Outgoing) -> bool:
    return False


def everything(_: Outgoing) -> bool:
    return True


def is_follow_up(message: Outgoing) -> bool:
    return message.routing_key == TrainingStarted.key


async def until_connected(publisher: Publisher) -> None:
    """Connect, however long a busy broker takes for it."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unconfirmed):
                return await publisher.connect()


async def started(envelope: Envelope) -> Sequence[Event]:
    return [TrainingStarted(training_id=envelope.event.training_id)]


def is_shown_as_waiting(queue: str) -> bool:
    return counted(telemetry.paused)[(queue,)] == 1


@pytest.fixture
async def refusing(broker: Broker) -> AsyncIterator[Refusing]:
    async with Refusing(broker.url) as refusing:
        yield refusing


@contextlib.asynccontextmanager
async def consuming(
    broker: Broker, publisher: Publisher, each: Handle | None = None, *, drain_seconds: float = 5.0, **options: object
) -> AsyncIterator[Consumer]:
    arguments: dict[str, object] = {
        "queue": EXTRACTOR_QUEUE,
        "service": "test",
        "workers": 4,
        "batch_size": 1,
        **({"handle": one_by_one(each)} if each else {}),
        **options,
    }
    settings = BrokerSettings(amqp_url=SecretStr(broker.url), retry_delays=DELAYS, drain_seconds=drain_seconds)
    consumer = Consumer(settings, publisher, **arguments)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer
    finally:
        stopping.set()
        await running


def succeeded(name: str = "one", output: str = "x") -> TrainingSucceeded:
    return TrainingSucceeded(training_id=name, output=output)


def message(event: Event) -> Outgoing:
    return to_message(wrap(event, source="test", now=now()), PLAN)


async def test_a_confirmed_message_is_in_the_queues_that_are_bound(broker: Broker, publisher: Publisher):
    await publisher.publish(message(succeeded()))

    assert await broker.depth(EXTRACTOR_QUEUE) == 1
    assert await broker.depth(STATE_QUEUE) == 1


async def test_an_event_that_no_queue_of_ours_takes_is_an_error(broker: Broker, publisher: Publisher):
    await publisher.connect()
    lost = replace(message(succeeded()), routing_key="nobody.listens.v1")

    with pytest.raises(Unroutable, match="reached no queue"):
        await publisher.publish(lost)


async def test_a_full_queue_gives_no_receipt(broker: Broker, publisher: Publisher):
    small = Queue("test.full", {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"})
    async with broker.channel() as channel:
        await declare(channel, Topology((), (small,), ()))

    async def fill() -> None:
        for _ in range(10):  # such a queue takes a few too many
            await publisher.publish(Outgoing("", small.name, b"one more"))

    with pytest.raises(Unconfirmed, match="is full"):
        await fill()

    await broker.delete_queue(small.name)


async def test_a_message_that_no_queue_takes_harms_no_other_on_its_way(broker: Broker, publisher: Publisher):
    await publisher.connect()
    lost = replace(message(succeeded()), routing_key="nobody.listens.v1")
    others = [message(succeeded(f"t{number}")) for number in range(99)]

    ends = await asyncio.gather(*map(publisher.publish, [lost, *others]), return_exceptions=True)

    assert isinstance(ends[0], Unroutable)
    assert ends[1:] == [None] * 99
    assert await broker.depth(EXTRACTOR_QUEUE) == 99


async def test_a_queue_that_a_message_missed_is_there_for_the_next(broker: Broker, publisher: Publisher):
    await publisher.connect()
    await broker.delete_queue(STATE_QUEUE)
    only_for_state = message(TrainingStarted(training_id="one"))

    with pytest.raises(Unroutable):
        await publisher.publish(only_for_state)
    await publisher.publish(only_for_state)

    assert await broker.depth(STATE_QUEUE) == 1


@pytest.mark.parametrize("turns", [2, 5, 10, 20])
async def test_a_publish_on_a_discarded_link_is_confirmed_or_not(broker: Broker, turns: int):
    sent = [message(succeeded(f"t{number}")) for number in range(200)]
    async with Publisher(broker.url, name="test", timeout_seconds=1) as publisher:
        await until_connected(publisher)
        publishing = [asyncio.create_task(publisher.publish(each)) for each in sent]
        for _ in range(turns):
            await asyncio.sleep(0)

    ends = await asyncio.gather(*publishing, return_exceptions=True)

    assert {type(end) for end in ends} <= {type(None), Unconfirmed}


async def test_a_connection_may_take_longer_than_a_message_may_wait(broker: Broker):
    async with (
        proxied(broker.url) as proxy,
        Publisher(proxy.url(broker.url), name="test", topology=PLAN, timeout_seconds=0.1) as publisher,
    ):
        proxy.hold()
        for _ in range(3):
            with pytest.raises(Unconfirmed):
                await publisher.publish(message(succeeded("one")))
        proxy.resume()
        await until_connected(publisher)

        assert proxy.connections == 1


async def test_a_confirm_that_never_comes_ends_the_link_in_time(broker: Broker):
    async with (
        proxied(broker.url, falls_silent_at=[b"held up"]) as proxy,
        Publisher(proxy.url(broker.url), name="test", timeout_seconds=1) as publisher,
    ):
        await until_connected(publisher)
        with pytest.raises(Unconfirmed):
            await publisher.publish(message(succeeded("one", output="held up")))
        async with asyncio.timeout(60):
            # A busy broker may need longer than a second as well.
            while True:
                with contextlib.suppress(Unconfirmed):
                    await publisher.publish(message(succeeded("two")))
                    break

    assert b'"two"' in (await broker.get(STATE_QUEUE)).body


async def test_what_follows_is_published_before_the_delivery_is_acked(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        return [TrainingStarted(training_id=envelope.event.training_id)]

    async with consuming(broker, publisher, handle):
        await publisher.publish(message(succeeded()))
        await broker.until(STATE_QUEUE, 2)
        await broker.until(EXTRACTOR_QUEUE, 0)

    first, second = [await broker.get(STATE_QUEUE) for _ in range(2)]
    assert first.headers["ce-type"] == "dev.modelswap.training.succeeded.v1"
    assert second.headers["ce-type"] == "dev.modelswap.training.started.v1"
    assert second.headers["ce-causationid"] == first.headers["ce-id"]


async def test_a_delivery_is_timed_to_its_ack(broker: Broker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr(tracing, "_spans", Traced({}))
    telemetry.handle_seconds.clear()

    async with consuming(broker, publisher, started):
        one = wrap(succeeded(), source="test", now=now(), trace={"traceparent": trace})
        await publisher.publish(to_message(one, PLAN))
        async with asyncio.timeout(60):
            while observed(telemetry.handle_seconds)[(EXTRACTOR_QUEUE,)].times != 1:
                await asyncio.sleep(0.01)

    samples = [sample for family in telemetry.handle_seconds.collect() for sample in family.samples]
    assert [each.exemplar.labels for each in samples if each.exemplar] == [{"trace_id": trace.split("-")[1]}]


async def test_no_ack_before_the_follow_up_is_confirmed(broker: Broker, publisher: Publisher):
    handled = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        handled.set()
        return [TrainingStarted(training_id=envelope.event.training_id)]

    await publisher.publish(message(succeeded()))
    async with (
        Publisher("amqp://127.0.0.1:1/", name="nowhere") as nowhere,
        consuming(broker, nowhere, handle, drain_seconds=0.2),
    ):
        await handled.wait()

    await broker.until(EXTRACTOR_QUEUE, 1)


async def test_a_transient_error_is_retried_in_the_same_queue_only(broker: Broker, publisher: Publisher):
    attempts: list[Retries | None] = []
    done = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        attempts.append(envelope.retries)
        if len(attempts) < 3:
            raise TransientError("not yet", code=f"not_yet_{len(attempts)}")
        done.set()
        return ()

    async with consuming(broker, publisher, handle):
        await publisher.publish(message(succeeded()))
        await done.wait()
        await broker.until(EXTRACTOR_QUEUE, 0)

    first, second, third = attempts
    assert first is None
    assert second
    assert third
    assert second.first_failed_at == third.first_failed_at
    assert (second.attempt, third.attempt) == (2, 3)
    assert (second.last_error, third.last_error) == ("not_yet_1", "not_yet_2")
    assert await broker.depth(STATE_QUEUE) == 1
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_a_permanent_error_is_dead_lettered_at_once(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise PermanentError("the version is three dots", code="bad_version_format")

    sent = message(succeeded())
    async with consuming(broker, publisher, handle):
        await publisher.publish(sent)
        letter = await broker.wait_for(DEAD_QUEUE)

    assert letter.body == sent.body
    assert letter.headers["ce-id"] == sent.headers["ce-id"]
    assert letter.headers["x-dead-queue"] == EXTRACTOR_QUEUE
    assert letter.headers["x-dead-error"] == "bad_version_format"
    assert letter.headers["x-dead-text"] == "the version is three dots"
    assert letter.headers["x-dead-attempts"] == 1
    assert letter.headers["x-dead-routing-key"] == "training.succeeded.v1"
    assert "PermanentError" in letter.headers["x-dead-traceback"]


async def test_at_the_end_of_the_ladder_the_delivery_is_a_dead_letter(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise TransientError("never")

    async with consuming(broker, publisher, handle):
        await publisher.publish(message(succeeded()))
        letter = await broker.wait_for(DEAD_QUEUE)

    assert letter.headers["x-dead-attempts"] == len(DELAYS) + 1
    assert letter.headers["x-dead-first-failure"] < letter.headers["x-dead-last-failure"]


async def test_on_dead_letter_events_are_published_with_the_letter(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise PermanentError("no")

    def on_dead_letter(envelope: Envelope, error: Exception) -> Sequence[Event]:
        return [TrainingStarted(training_id=f"{envelope.event.training_id}-{error}")]

    async with consuming(broker, publisher, handle, on_dead_letter=on_dead_letter):
        await publisher.publish(message(succeeded()))
        await broker.wait_for(DEAD_QUEUE)

    await broker.get(STATE_QUEUE)
    assert b"one-no" in (await broker.get(STATE_QUEUE)).body


async def test_what_can_not_be_decoded_is_a_dead_letter_byte_for_byte(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise AssertionError("nothing to handle")

    garbage = Outgoing("", EXTRACTOR_QUEUE, b"\xff\x00garbage", headers={"odd": 1}, content_type="x/y")
    async with consuming(broker, publisher, handle):
        await publisher.publish(garbage)
        letter = await broker.wait_for(DEAD_QUEUE)

    assert letter.body == garbage.body
    assert letter.headers["odd"] == 1
    assert letter.headers["x-dead-error"] == "malformed"


async def test_while_a_dependency_is_down_no_attempt_is_counted(broker: Broker, publisher: Publisher):
    asked = 0
    done: list[str] = []
    all_done = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        nonlocal asked
        asked += 1
        if asked <= 4:
            raise DependencyDown("the database is away")
        done.append(envelope.event.training_id)
        if len(done) == 6:
            all_done.set()
        return ()

    async with consuming(broker, publisher, handle) as consumer:
        for number in range(6):
            await publisher.publish(message(succeeded(f"t{number}")))
        await all_done.wait()
        await broker.until(EXTRACTOR_QUEUE, 0)
        assert await consumer.check() is None

    assert sorted(done) == [f"t{number}" for number in range(6)]
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_an_outage_longer_than_all_retries_makes_no_dead_letter(broker: Broker, publisher: Publisher):
    asked = 0
    done = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        nonlocal asked
        asked += 1
        if asked <= len(DELAYS) + 1:
            raise DependencyDown("the database is away")
        done.set()
        return ()

    async with consuming(broker, publisher, handle):
        await publisher.publish(message(succeeded()))
        async with asyncio.timeout(60):
            await done.wait()
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert await broker.depth(DEAD_QUEUE) == 0


async def test_a_link_lost_in_an_outage_costs_no_attempt(broker: Broker, refusing: Refusing):
    names = {"t0", "t1", "t2"}
    asked: list[str] = []
    done: list[str] = []
    was_asked, all_done = asyncio.Event(), asyncio.Event()
    is_away = True

    async def handle(envelope: Envelope) -> Sequence[Event]:
        name = envelope.event.training_id
        asked.append(name)
        was_asked.set()
        if is_away:
            raise DependencyDown("the database is away")
        done.append(name)
        if len(done) == len(names):
            all_done.set()
        return ()

    for name in sorted(names):
        await refusing.publish(message(succeeded(name)))
    async with consuming(broker, refusing, handle, workers=1, prefetch=1) as consumer:
        for _ in range(3):
            was_asked.clear()
            async with asyncio.timeout(60):
                await was_asked.wait()
            if (link := consumer._subscription._link) is not None:
                await link.close()
        is_away = False
        async with asyncio.timeout(60):
            await all_done.wait()
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert sorted(done) == sorted(names)
    assert refusing.delayed() == []
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_what_is_not_taken_is_shown_until_it_is(broker: Broker, refusing: Refusing):
    refusing.refuses = is_follow_up
    async with consuming(broker, refusing, started):
        await refusing.publish(message(succeeded()))
        await refusing.has_refused(1)
        async with asyncio.timeout(60):
            while not is_shown_as_waiting(EXTRACTOR_QUEUE):
                await asyncio.sleep(0.02)
        refusing.refuses = nothing
        await broker.until(STATE_QUEUE, 2)
        async with asyncio.timeout(60):
            while is_shown_as_waiting(EXTRACTOR_QUEUE):
                await asyncio.sleep(0.02)


async def test_a_consumer_says_why_it_waits_for_a_receipt(broker: Broker, refusing: Refusing):
    refusing.refuses = is_follow_up
    async with consuming(broker, refusing, started) as consumer:
        await refusing.publish(message(succeeded()))
        await refusing.has_refused(2)

        assert await consumer.check() == "a queue of training.started.v1 is full"
        refusing.refuses = nothing


async def test_while_the_broker_takes_nothing_a_delivery_waits(broker: Broker, refusing: Refusing):
    handled: list[str] = []

    async def handle(envelope: Envelope) -> Sequence[Event]:
        handled.append(envelope.event.training_id)
        return await started(envelope)

    for name in ("t0", "t1", "t2"):
        await refusing.publish(message(succeeded(name)))
    refusing.refuses = everything
    async with consuming(broker, refusing, handle, workers=1, prefetch=2, batch_size=1) as consumer:
        await refusing.has_refused(5)
        assert handled == ["t0"]
        assert await consumer.check() == "a queue of training.started.v1 is full"
        refusing.refuses = nothing
        await broker.until(STATE_QUEUE, 6)
        await broker.until(EXTRACTOR_QUEUE, 0)
        assert await consumer.check() is None

    assert handled == ["t0", "t1", "t2"]
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_a_delivery_that_fails_alone_becomes_a_dead_letter(broker: Broker, publisher: Publisher):
    passed = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        if envelope.event.training_id == "alone":
            raise NoAnswer("get training alone: 500")
        passed.set()
        return await started(envelope)

    def on_dead_letter(envelope: Envelope, error: Exception) -> Sequence[Event]:
        return [TrainingStarted(training_id=f"{envelope.event.training_id}-{code_of(error)}")]

    async def others() -> None:
        for number in itertools.count():
            passed.clear()
            await publisher.publish(message(succeeded(f"t{number}")))
            await passed.wait()

    await publisher.publish(message(succeeded("alone")))
    async with consuming(broker, publisher, handle, on_dead_letter=on_dead_letter, patience_seconds=0.5):
        passing = asyncio.create_task(others())
        async with asyncio.timeout(60):
            while not await broker.depth(DEAD_QUEUE):
                await asyncio.sleep(0.05)
        passing.cancel()
        letter = await broker.get(DEAD_QUEUE)

    told = [await broker.get(STATE_QUEUE) for _ in range(await broker.depth(STATE_QUEUE))]
    assert any(b'"alone-replicate_down"' in each.body for each in told)
    assert b'"alone"' in letter.body
    assert letter.headers["x-dead-error"] == "replicate_down"
    assert letter.headers["x-dead-attempts"] == len(DELAYS) + 1
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_a_delivery_that_fails_alone_does_not_hold_up_the_others_again_and_again(
    broker: Broker, refusing: Refusing
):
    asked, passed = 0, asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        nonlocal asked
        if envelope.event.training_id == "alone":
            asked += 1
            raise NoAnswer("get training alone: 500")
        passed.set()
        return await started(envelope)

    await refusing.publish(message(succeeded("alone")))
    async with consuming(broker, refusing, handle, patience_seconds=4):
        async with asyncio.timeout(60):
            for number in itertools.count():
                if refusing.delayed():
                    break
                passed.clear()
                await refusing.publish(message(succeeded(f"t{number}")))
                await passed.wait()

    # By its own pauses, three to eight times; at once after each success, it was 25 times.
    assert 1 < asked < 15


async def test_while_nobody_is_answered_no_attempt_is_counted(broker: Broker, refusing: Refusing):
    asked = 0

    async def handle(envelope: Envelope) -> Sequence[Event]:
        nonlocal asked
        if envelope.event.training_id == "unasked":
            return await started(envelope)
        asked += 1
        raise NoAnswer("get training one: 500")

    def is_answer(events: Sequence[Event]) -> bool:
        return False

    await refusing.publish(message(succeeded("one")))
    async with consuming(broker, refusing, handle, is_answer=is_answer, patience_seconds=0.01):
        async with asyncio.timeout(60):
            while asked < len(DELAYS) + 4:
                await refusing.publish(message(succeeded("unasked")))
                await asyncio.sleep(0.05)

    assert refusing.delayed() == []
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_one_bad_delivery_of_a_batch_harms_only_itself(broker: Broker, publisher: Publisher):
    good: set[str] = set()
    all_good = asyncio.Event()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        names = [envelope.event.training_id for envelope in envelopes]
        if "bad" in names:
            raise PermanentError("bad")
        good.update(names)
        if len(good) >= 9:
            all_good.set()
        return [()] * len(envelopes)

    for number in range(5):
        await publisher.publish(message(succeeded(f"t{number}")))
    await publisher.publish(message(succeeded("bad")))
    for number in range(5, 9):
        await publisher.publish(message(succeeded(f"t{number}")))
    async with consuming(broker, publisher, handle=handle, workers=1, batch_size=64):
        await all_good.wait()
        letter = await broker.wait_for(DEAD_QUEUE)
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert b'"bad"' in letter.body
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_what_is_down_for_one_delivery_is_tried_beside_others(broker: Broker, publisher: Publisher):
    handled: asyncio.Queue[str] = asyncio.Queue()
    refused = asyncio.Event()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        names = [envelope.event.training_id for envelope in envelopes]
        if "slow" in names:
            refused.set()
            raise NoAnswer("canceling statement due to statement timeout")
        for name in names:
            handled.put_nowait(name)
        return [()] * len(envelopes)

    async def others() -> None:
        for number in itertools.count():
            await publisher.publish(message(succeeded(f"t{number}")))
            assert await handled.get() == f"t{number}"

    await publisher.publish(message(succeeded("slow")))
    async with consuming(broker, publisher, handle=handle, workers=1, batch_size=64) as consumer:
        await refused.wait()
        assert "statement timeout" in str(await consumer.check())
        passing = asyncio.create_task(others())
        letter = await broker.wait_for(DEAD_QUEUE)
        passing.cancel()

    assert b'"slow"' in letter.body
    assert letter.headers["x-dead-error"] == "replicate_down"
    assert letter.headers["x-dead-attempts"] == len(DELAYS) + 1
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_what_is_answered_beside_many_that_are_not_is_acked(broker: Broker, publisher: Publisher):
    """Of these four, two that are too slow always follow each other, so that none is known to fail by itself."""
    good: list[str] = []
    again = asyncio.Event()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        names = [envelope.event.training_id for envelope in envelopes]
        if any(name.startswith("slow") for name in names):
            if good and "good" not in names and len(names) > 1:
                again.set()
            raise NoAnswer("canceling statement due to statement timeout")
        good.extend(names)
        return [()] * len(envelopes)

    for number in range(3):
        await publisher.publish(message(succeeded(f"slow{number}")))
    await publisher.publish(message(succeeded("good")))
    await broker.until(EXTRACTOR_QUEUE, 4)
    async with consuming(broker, publisher, handle=handle, workers=1, batch_size=64), asyncio.timeout(60):
        await again.wait()

    await broker.until(EXTRACTOR_QUEUE, 3)
    assert good == ["good"]
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_what_is_down_for_a_whole_batch_counts_no_attempt(broker: Broker, refusing: Refusing):
    asked = 0
    handled: asyncio.Queue[str] = asyncio.Queue()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        nonlocal asked
        asked += 1
        if asked < 10:
            raise NoAnswer("canceling statement due to statement timeout")
        for envelope in envelopes:
            handled.put_nowait(envelope.event.training_id)
        return [()] * len(envelopes)

    for number in range(3):
        await refusing.publish(message(succeeded(f"t{number}")))
    telemetry.handle_seconds.clear()
    async with consuming(broker, refusing, handle=handle, workers=1, batch_size=64):
        assert {await handled.get() for _ in range(3)} == {"t0", "t1", "t2"}
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert observed(telemetry.handle_seconds)[(EXTRACTOR_QUEUE,)].times <= 3  # what was put again is not counted
    assert refusing.delayed() == []
    assert await broker.depth(DEAD_QUEUE) == 0


async def test_a_deleted_queue_is_declared_again_and_consumed(broker: Broker, publisher: Publisher):
    handled: asyncio.Queue[str] = asyncio.Queue()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        handled.put_nowait(envelope.event.training_id)
        return ()

    async with consuming(broker, publisher, handle):
        await publisher.publish(message(succeeded("before")))
        assert await handled.get() == "before"
        await broker.delete_queue(EXTRACTOR_QUEUE)
        await broker.until_consumed(EXTRACTOR_QUEUE)
        await publisher.publish(message(succeeded("after")))

        assert await handled.get() == "after"


async def test_stopping_finishes_what_was_begun_and_leaves_the_rest(broker: Broker, publisher: Publisher):
    begun = asyncio.Event()
    may_end = asyncio.Event()
    handled: list[str] = []

    async def handle(envelope: Envelope) -> Sequence[Event]:
        begun.set()
        await may_end.wait()
        handled.append(envelope.event.training_id)
        return ()

    settings = BrokerSettings(amqp_url=SecretStr(broker.url), retry_delays=DELAYS)
    consumer = Consumer(
        settings, publisher, queue=EXTRACTOR_QUEUE, service="test", handle=one_by_one(handle), batch_size=1, prefetch=10
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(consumer.run(stopping))
    for number in range(3):
        await publisher.publish(message(succeeded(f"t{number}")))
    await begun.wait()

    stopping.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await broker.until(EXTRACTOR_QUEUE, 3)  # it would let go of what it has begun
    may_end.set()
    await running

    assert handled == ["t0"]
    # RabbitMQ takes back what was in hand after the connection's end, at the pace of its disk.
    await broker.until(EXTRACTOR_QUEUE, 2)


@pytest.mark.parametrize("batch_size", [1, 64])
async def test_stopping_in_an_outage_waits_for_no_probe(broker: Broker, publisher: Publisher, batch_size: int):
    refused = asyncio.Event()

    async def handle(_: Sequence[Envelope]) -> Sequence[Result]:
        refused.set()
        raise DependencyDown("too many requests", retry_after_seconds=3600)

    for number in range(8):
        await publisher.publish(message(succeeded(f"t{number}")))
    async with asyncio.timeout(60):
        async with consuming(broker, publisher, handle=handle, batch_size=batch_size, drain_seconds=90):
            await refused.wait()

    await broker.until(EXTRACTOR_QUEUE, 8)


async def test_a_delivery_that_keeps_crashing_becomes_a_dead_letter(broker: Broker):
    async with broker.channel() as channel:
        await channel.basic_publish(b"poison", exchange="", routing_key=EXTRACTOR_QUEUE)
    async with asyncio.timeout(60):
        while not await broker.depth(DEAD_QUEUE):
            await broker.take_and_die(EXTRACTOR_QUEUE)

    letter = await broker.wait_for(DEAD_QUEUE)

    assert letter.body == b"poison"
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"


async def test_a_queue_with_other_arguments_is_refused_by_name(broker: Broker, publisher: Publisher):
    other = Topology((), (Queue(DEAD_QUEUE, {"x-queue-type": "classic"}),), ())

    with pytest.raises(TopologyMismatch, match=DEAD_QUEUE):
        async with Publisher(broker.url, name="test", topology=other, timeout_seconds=60) as mistaken:
            await mistaken.connect()


async def test_the_difference_between_plan_and_broker_is_named(broker: Broker):
    assert await diff(broker.url, PLAN) == []

    await broker.delete_queue(STATE_QUEUE)
    other = Queue(EXTRACTOR_QUEUE, {"x-queue-type": "classic"})
    plan = replace(PLAN, queues=(*PLAN.queues[2:3], other), bindings=(Binding("", "", ""),))
    found = await diff(broker.url, plan)

    assert found[0] == f"queue {STATE_QUEUE}: missing"
    assert found[1].startswith(f"queue {EXTRACTOR_QUEUE}: differs")


async def test_all_queues_are_looked_at_over_one_connection(broker: Broker):
    names = (STATE_QUEUE, "modelswap.missing", EXTRACTOR_QUEUE)
    plan = replace(PLAN, queues=(*PLAN.queues, Queue("modelswap.missing", {})))
    async with broker.channel() as channel:
        await channel.basic_publish(b"waits", exchange="", routing_key=EXTRACTOR_QUEUE)

    async with proxied(broker.url) as proxy:
        found = await depths(proxy.url(broker.url), names, name="test")
        after_depths = proxy.connections
        differences = await diff(proxy.url(broker.url), plan)

    assert found == {STATE_QUEUE: (0, 0), "modelswap.missing": (0, 0), EXTRACTOR_QUEUE: (1, 0)}
    assert differences == ["queue modelswap.missing: missing"]
    assert (after_depths, proxy.connections) == (1, 2)


async def test_a_public_event_without_subscribers_is_no_error(broker: Broker, publisher: Publisher):
    plan = replace(PLAN, bindings=())
    ready = ModelReady.model_validate(
        {
            "training_id": "one",
            "model": f"acme/u-1:{'a' * 64}",
            "evidence": {"shape": "version", "checks": ["exists"], "seconds": 0.1},
        }
    )

    await publisher.publish(replace(to_message(wrap(ready, source="test", now=now()), plan), routing_key="x.y.v1"))

    assert not plan.has_binding(ModelReady)


async def test_a_broken_link_is_reported_lost(broker: Broker):
    link = await Link.open(broker.url, name="test")

    await link.close()

    assert link.lost.is_set()
    assert not link.is_open


async def test_the_link_to_a_silent_broker_is_given_up(broker: Broker):
    async with proxied(broker.url) as proxy:
        link = await Link.open(proxy.url(broker.url), name="test")
        proxy.hold()

        await link.close()

    assert link._connection.is_closed


@pytest.mark.parametrize(
    "request_of",
    [
        lambda link: link.open_channel(),
        lambda link: declare(link.channel, topology()),
        lambda link: link.consume("x", print),
    ],
    ids=["channel", "declare", "consume"],
)
async def test_a_request_under_way_when_a_link_closes_is_a_link_error(
    broker: Broker, request_of: Callable[[Link], Awaitable[object]]
):
    link = await Link.open(broker.url, name="test")
    request = asyncio.ensure_future(request_of(link))
    await asyncio.sleep(0)  # one turn of the loop: it has begun

    # As the library does it when its reader ends, such as after connection.close-ok: without a reason.
    await link.channel.connection.close(None)

    with pytest.raises(LINK_ERRORS):
        await request


async def test_failed_deliveries_of_a_lossy_queue_are_dropped(broker: Broker, publisher: Publisher):
    handled = asyncio.Event()
    tried: list[str] = []

    async def handle(envelope: Envelope) -> Sequence[Event]:
        tried.append(envelope.event.training_id)
        if envelope.event.training_id == "bad":
            raise TransientError("not now")
        handled.set()
        return []

    dropped = counted(telemetry.dropped).get(("transient",), 0)
    async with consuming(broker, publisher, handle, queue=PROGRESS_QUEUE, workers=1), asyncio.timeout(60):
        await broker.until_consumed(PROGRESS_QUEUE)
        for name in ("bad", "good"):
            await publisher.publish(message(TrainingProgressed(training_id=name, fraction=0.5)))
        await handled.wait()

    assert tried == ["bad", "good"]
    assert counted(telemetry.dropped)[("transient",)] == dropped + 1
    assert await broker.depth(DEAD_QUEUE) == 0
    assert [await broker.depth(f"modelswap.delay.{delay}ms") for delay in (50, 100)] == [0, 0]


async def test_a_lossy_queue_with_other_arguments_stops_no_process(broker: Broker, publisher: Publisher):
    await broker.delete_queue(PROGRESS_QUEUE)
    async with broker.channel() as channel:
        await channel.queue_declare(PROGRESS_QUEUE, durable=True)
    asked = asyncio.Event()

    async def nothing_to_do(_: Envelope) -> Sequence[Event]:
        asked.set()
        return []

    async with consuming(broker, publisher, nothing_to_do, queue=PROGRESS_QUEUE) as consumer, asyncio.timeout(60):
        while "other arguments than ours" not in (await consumer.check() or ""):
            await asyncio.sleep(0.02)
        await publisher.publish(message(succeeded()))
        await broker.delete_queue(PROGRESS_QUEUE)
        await broker.until_consumed(PROGRESS_QUEUE)
        await publisher.publish(message(TrainingProgressed(training_id="one", fraction=0.5)))
        await asked.wait()

        assert await consumer.check() is None


# Messages that can not be published


@pytest.mark.parametrize(
    "poison",
    [
        replace(message(succeeded()), headers={"tracestate": "b" * 140_000}),
        replace(message(succeeded()), body=b"x" * (EVENT_BYTES + 1)),
        replace(message(succeeded()), headers={"a": 2**64}),
        replace(message(succeeded()), headers={"a": 1e300}),
        replace(message(succeeded()), headers={"a": "\ud800"}),
        replace(message(succeeded()), headers={"a": object()}),
        replace(message(succeeded()), message_type="t" * 256),
        replace(message(succeeded()), routing_key="k" * 256),
        replace(message(succeeded()), exchange="no name!"),
    ],
    ids=["headers", "body", "integer", "fraction", "surrogate", "object", "type", "key", "exchange"],
)
async def test_an_unpublishable_message_fails_before_any_write(poison: Outgoing, broker: Broker, publisher: Publisher):
    await publisher.connect()
    others = [message(succeeded(f"t{number}")) for number in range(100)]

    ends = await asyncio.gather(*map(publisher.publish, [*others[:50], poison, *others[50:]]), return_exceptions=True)

    assert isinstance(ends.pop(50), Unpublishable)
    assert ends == [None] * 100


@pytest.mark.parametrize(
    "poison",
    [
        replace(message(succeeded()), headers={"CC": "not a list"}),
        replace(message(succeeded()), headers={"BCC": 7}),
    ],
    ids=["CC", "BCC"],
)
async def test_what_the_broker_objects_to_harms_no_other_on_its_way(
    poison: Outgoing, broker: Broker, publisher: Publisher
):
    await publisher.connect()
    others = [message(succeeded(f"t{number}")) for number in range(100)]

    ends = await asyncio.gather(*map(publisher.publish, [*others[:50], poison, *others[50:]]), return_exceptions=True)

    refused = ends.pop(50)
    assert isinstance(refused, Unpublishable)
    assert refused.code == "message_refused"
    assert ends == [None] * 100


async def test_an_oversized_follow_up_makes_its_cause_a_dead_letter(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        return [TrainingStarted(training_id="t"), TrainingFailed.model_construct(training_id="t", reason="x" * 2**20)]

    def on_dead_letter(envelope: Envelope, error: Exception) -> Sequence[Event]:
        return [TrainingStarted(training_id=f"told-{code_of(error)}")]

    async with consuming(broker, publisher, handle, on_dead_letter=on_dead_letter):
        await publisher.publish(message(succeeded("one")))
        letter = await broker.wait_for(DEAD_QUEUE)
        await broker.until(EXTRACTOR_QUEUE, 0)

    told = [await broker.get(STATE_QUEUE) for _ in range(await broker.depth(STATE_QUEUE))]
    assert b'"one"' in letter.body
    assert letter.headers["x-dead-error"] == "message_too_large"
    assert any(b"told-message_too_large" in each.body for each in told)


async def test_what_is_told_of_a_failure_and_does_not_fit_is_left_out(broker: Broker, publisher: Publisher):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise PermanentError("no")

    def on_dead_letter(envelope: Envelope, error: Exception) -> Sequence[Event]:
        return [TrainingFailed.model_construct(training_id="t", reason="x" * 2**20)]

    async with consuming(broker, publisher, handle, on_dead_letter=on_dead_letter):
        await publisher.publish(message(succeeded()))
        letter = await broker.wait_for(DEAD_QUEUE)

    assert letter.headers["x-dead-error"] == "permanent"


async def test_an_unpublishable_dead_letter_is_rejected_to_the_broker(broker: Broker, refusing: Refusing):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise PermanentError("no")

    refusing.refuses = lambda each: each.exchange == DEAD_EXCHANGE
    refusing.refuses_with = Unpublishable
    async with consuming(broker, refusing, handle):
        await refusing.publish(message(succeeded("one")))
        letter = await broker.wait_for(DEAD_QUEUE)
        await refusing.publish(message(succeeded("two")))
        await broker.wait_for(DEAD_QUEUE)

    assert b'"one"' in letter.body
    assert letter.headers["x-death"][0]["reason"] == "rejected"


@pytest.mark.parametrize("headers", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("error", [PermanentError("no"), TransientError("not yet")], ids=["dead", "retried"])
async def test_a_message_of_hostile_headers_ends_in_the_dead_letters(
    headers: dict[str, Any], error: Exception, broker: Broker, publisher: Publisher
):
    async def handle(envelope: Envelope) -> Sequence[Event]:
        raise error

    sent = message(succeeded())
    async with broker.channel() as channel:
        await channel.basic_publish(
            sent.body,
            routing_key=EXTRACTOR_QUEUE,
            properties=spec.Basic.Properties(headers=cast("FieldTable", {**sent.headers, **headers})),
        )
        await broker.until(EXTRACTOR_QUEUE, 1)
    async with consuming(broker, publisher, handle):
        letter = await broker.wait_for(DEAD_QUEUE)
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert letter.body == sent.body
    assert letter.headers["x-dead-queue"] == EXTRACTOR_QUEUE


@pytest.mark.parametrize("table", UNREADABLE.values(), ids=UNREADABLE)
async def test_headers_that_the_client_can_not_read_stop_no_consumer(
    table: bytes, broker: Broker, publisher: Publisher
):
    handled = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Event]:
        handled.set()
        return ()

    try:
        await broker.publish_raw(EXTRACTOR_QUEUE, table)
    except aiormq.exceptions.AMQPError:
        pytest.skip("this RabbitMQ takes no such headers")
    await publisher.publish(message(succeeded()))
    async with consuming(broker, publisher, handle):
        await handled.wait()
        letter = await broker.wait_for(DEAD_QUEUE)
        await broker.until(EXTRACTOR_QUEUE, 0)

    assert letter.body == b"{}"
    assert letter.headers["x-dead-error"] == "malformed"
