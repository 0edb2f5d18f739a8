"""What may be lost is declared and published apart: nothing else waits for it, or fails because of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from shared.contract.envelope import wrap
from shared.contract.errors import DependencyDown
from shared.contract.events import EVENTS, EVENTS_EXCHANGE, Event, TrainingProgressed, TrainingSucceeded
from shared.contract.queues import LogLimits
from shared.contract.topology import EVENTS_LOG, PROGRESS_QUEUE, STATE_QUEUE, Exchange, topology
from shared.runtime import telemetry
from shared.runtime.broker import Outgoing, SplitPublisher, Unconfirmed, Unroutable, to_message
from shared.runtime.clock import now
from tests.counts import counted

PLAN = topology()
PROGRESS = TrainingProgressed(training_id="t1", fraction=0.5)
END = TrainingSucceeded(training_id="t1", output="x")


@dataclass
class Published:
    """A publisher that keeps what it is given, or raises what it is told."""

    messages: list[Outgoing] = field(default_factory=list)
    broken: Exception | None = None

    async def publish(self, message: Outgoing) -> None:
        if self.broken is not None:
            raise self.broken
        self.messages.append(message)


def message(event: Event) -> Outgoing:
    return to_message(wrap(event, source="test", now=now()), PLAN)


def test_only_the_progress_queue_is_lossy():
    assert [queue.name for queue in PLAN.lossy.queues] == [PROGRESS_QUEUE]
    assert [exchange.name for exchange in PLAN.lossy.exchanges] == ["modelswap.training"]
    assert {binding.queue for binding in PLAN.lossy.bindings} == {PROGRESS_QUEUE}


def test_the_parts_of_the_plan_are_the_whole():
    parts = (PLAN.lasting, PLAN.lossy, PLAN.log)

    assert PLAN.lasting.exchanges == PLAN.exchanges
    assert sum(len(part.queues) for part in parts) == len(PLAN.queues)
    assert sorted(map(str, PLAN.bindings)) == sorted(str(each) for part in parts for each in part.bindings)


def test_the_log_is_declared_by_no_consumer_and_hears_every_public_event():
    log = PLAN.log

    assert [queue.name for queue in log.queues] == [EVENTS_LOG]
    assert log.exchanges == (Exchange(EVENTS_EXCHANGE, "topic"),)
    assert {each.routing_key for each in log.bindings} == {
        key for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE
    }
    assert EVENTS_LOG not in {queue.name for queue in (*PLAN.lasting.queues, *PLAN.lossy.queues)}


@pytest.mark.parametrize(
    ("limits", "arguments"),
    [
        (LogLimits(), ("7D", 1_000_000_000, 50_000_000)),
        (LogLimits(30, 10**12), ("30D", 10**12, 100_000_000)),
        (LogLimits(1, 10_000_000), ("1D", 10_000_000, 500_000)),
    ],
)
def test_the_log_is_limited_in_segments_so_that_the_oldest_can_go(limits: LogLimits, arguments: tuple[object, ...]):
    (stream,) = topology(log_limits=limits).log.queues

    kept = [stream.arguments[name] for name in ("x-max-age", "x-max-length-bytes", "x-stream-max-segment-size-bytes")]

    assert tuple(kept) == arguments


def test_a_consumer_declares_its_own_part_only():
    assert PLAN.for_consumer_of(PROGRESS_QUEUE) == PLAN.lossy
    assert PLAN.for_consumer_of(STATE_QUEUE) == PLAN.lasting


@pytest.mark.parametrize("error", [Unconfirmed("no receipt"), Unroutable("no queue")])
async def test_progress_that_is_not_taken_is_dropped_counted_and_told(error: DependencyDown):
    lasting, lossy = Published(), Published(broken=error)
    parted = SplitPublisher(lasting, lossy, PLAN)
    before = counted(telemetry.dropped)[(error.code,)]

    await parted.publish(message(PROGRESS))

    assert counted(telemetry.dropped)[(error.code,)] == before + 1
    assert await parted.check() == f"{error}; only reports of progress are dropped"
    assert lasting.messages == []


async def test_once_progress_is_taken_again_nothing_is_told():
    lossy = Published(broken=Unroutable("no queue"))
    parted = SplitPublisher(Published(), lossy, PLAN)
    await parted.publish(message(PROGRESS))

    lossy.broken = None
    await parted.publish(message(PROGRESS))

    assert await parted.check() is None
    assert len(lossy.messages) == 1


async def test_what_must_not_be_lost_is_never_dropped():
    parted = SplitPublisher(Published(broken=Unconfirmed("no receipt")), Published(), PLAN)

    with pytest.raises(Unconfirmed):
        await parted.publish(message(END))
