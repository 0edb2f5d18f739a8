"""
How does a consumer stay alive? Edge: one queue over one connection, through every loss of it, until told to stop.

What becomes of the deliveries is for whoever stands above: `consumer`, `keeper`.

Handlers run in our own tasks: the library cancels its own when a connection dies, in the middle of a commit. Work that
outlives its connection goes on to its end, and its ack, which nobody awaits any more, is dropped.

Where even giving back fails, because the broker takes no messages at all, everything in hand is returned with one nack,
and nothing is consumed until messages are taken again. RabbitMQ would take it by force (`consumer_timeout`), and each
half hour anew. A nack counts towards the delivery limit before 4.3 and from then on no more; the loss of a channel, a
reject and a connection count on all (measured 2026-11 on 3.10.8 and 4.3.6). So an outage costs a delivery one at most
in each process.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Final, TypeVar

import structlog

from shared.contract.errors import DependencyDown
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker.declare import TopologyMismatch, answered, declare
from shared.runtime.broker.inbox import Inbox, Stale
from shared.runtime.broker.link import LINK_ERRORS, Link, is_refused, is_stray_cancel, say
from shared.runtime.broker.message import Delivery, Outgoing
from shared.runtime.broker.pause import HeldForLong, Pause
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.refusals import Refusals
from shared.runtime.clock import now
from shared.runtime.waiting import Stopped, unless_stopped, wait_for_any

log = structlog.get_logger()

T = TypeVar("T")

#: RabbitMQ takes back what is in hand for half an hour, counts that, and after twenty times makes it a dead letter.
HOLD_SECONDS: Final = 300.0

_RECONNECT_LONGEST_SECONDS: Final = 10.0
_CANCEL_SECONDS: Final = 1.0
_PUBLISH_AGAIN_LONGEST_SECONDS: Final = 1.0


class Supervised(ABC):
    """Consumes one queue, over a connection of its own, until told to stop."""

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        service: str,
        publisher: Publisher,
        topology: Topology,
        workers: int,
        batch_size: int,
        prefetch: int,
        drain_seconds: float,
        declares: bool,
        hold_seconds: float,
    ) -> None:
        self._url = url
        self._queue = queue
        self._service = service
        self._publisher = publisher
        self._topology = topology
        #: What it consumes may be lost: nothing else waits for it, or ends because of it.
        self._is_lossy = topology.may_lose(queue)
        self._workers = workers
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._drain_seconds = drain_seconds
        self._declares = declares
        self._hold_seconds = hold_seconds
        self._pause = Pause(queue)
        self._refusals = Refusals(hold_seconds)
        #: When the newest delivery began that showed that what all depend on answers.
        self._answered_since = float("-inf")
        self._busy: set[asyncio.Task[None]] = set()
        self._link: Link | None = None
        #: When the first message of each batch at work was published.
        self._published: dict[int, datetime] = {}
        #: Why there is no link.
        self._away = "RabbitMQ was not asked yet"
        telemetry.paused.labels(queue).set_function(lambda: self._trouble() is not None)
        telemetry.oldest_delivery.labels(queue).set_function(self._oldest_seconds)

    @abstractmethod
    async def _process(self, batch: Sequence[Delivery], inbox: Inbox) -> None:
        """One batch, up to the ack."""

    async def check(self) -> str | None:
        """What keeps deliveries from being handled now, or None."""
        return self._trouble()

    def _trouble(self) -> str | None:
        if self._refusals.reason is not None:
            return self._refusals.reason
        if self._link is None or not self._link.is_open:
            return f"{self._queue} is not being consumed: {self._away}"
        return self._pause.reason

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Consume until *stopping* is set, through every loss of the broker; then finish what was begun.

        Raises:
            TopologyMismatch: if the broker holds a queue with other arguments than ours; a lossy one ends nothing.

        """
        failures = 0
        try:
            while not stopping.is_set():
                try:
                    await self._consume(stopping)
                    failures = 1  # a link that is lost as soon as it stands must not become a busy loop
                except Stopped:
                    break
                except TopologyMismatch as error:
                    if not self._is_lossy:
                        raise
                    failures += 1
                    self._away = str(error)
                    log.error("consumer.mismatch", queue=self._queue, detail=str(error))  # noqa: TRY400 (it says it all)
                except LINK_ERRORS as error:
                    failures += 1
                    self._away = say(error)
                    log.warning(
                        "consumer.disconnected", queue=self._queue, error=repr(error), refused=is_refused(error)
                    )
                except asyncio.CancelledError:
                    if not is_stray_cancel():
                        raise
                    failures += 1
                    self._away = "the connection to RabbitMQ was lost"
                    log.warning("consumer.disconnected", queue=self._queue, error="the connection was lost")
                await wait_for_any(stopping, seconds=jitter(failures, _RECONNECT_LONGEST_SECONDS))
        finally:
            await self._drain()

    async def _consume(self, stopping: asyncio.Event) -> None:
        """
        Consume over one link until it is lost or *stopping* is set.

        Raises:
            Stopped: if *stopping* is set before anything is consumed.

        """
        name = f"{self._service} consumes {self._queue}"
        link = await unless_stopped(stopping, Link.open(self._url, name=name))
        inbox = Inbox(link, self._queue, stopping)
        try:
            consumer_tag = await unless_stopped(stopping, self._begin(link, inbox))
            for _ in range(self._workers):
                self._start(self._work(inbox), inbox)
            self._link, self._away = link, "the connection to RabbitMQ was lost"
            log.info("consumer.started", queue=self._queue)
            await wait_for_any(stopping, link.lost, inbox.given_up)
            if link.is_open and consumer_tag is not None:
                # A frozen broker must not hold up the end.
                await link.channel.basic_cancel(consumer_tag, timeout=_CANCEL_SECONDS)
                if inbox.given_up.is_set() and not stopping.is_set():
                    inbox.return_all()
        finally:
            self._link = None
            inbox.close()
            # What was begun is finished, and acked if the link still stands; what was not begun stays unacked.
            if stopping.is_set():
                await self._drain()
            inbox.send_acks()
            await link.close()
        if inbox.given_up.is_set():
            await self._until_messages_are_taken(stopping)

    async def _begin(self, link: Link, inbox: Inbox) -> str | None:
        """Let *inbox* be filled over *link*; the consumer's tag."""
        if self._declares:
            await declare(link.channel, self._topology.for_consumer_of(self._queue))
        async with answered(f"consume queue {self._queue}"):
            await link.channel.basic_qos(prefetch_count=self._prefetch)
            return (await link.channel.basic_consume(self._queue, inbox.put)).consumer_tag

    async def _until_messages_are_taken(self, stopping: asyncio.Event) -> None:
        """Wait until the broker takes messages: whatever it handed over until then would only be returned again."""
        failures = 0
        while not stopping.is_set():
            try:
                await unless_stopped(stopping, self._publisher.probe())
            except Stopped:
                return
            except DependencyDown as error:
                failures += 1
                self._refusals.note("", str(error))
            else:
                self._refusals.forget("")
                return
            await wait_for_any(stopping, seconds=jitter(failures, _RECONNECT_LONGEST_SECONDS))

    async def _drain(self) -> None:
        if not self._busy:
            return
        _, late = await asyncio.wait(self._busy, timeout=self._drain_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("consumer.abandoned", queue=self._queue, deliveries=len(late))
            await asyncio.wait(late, timeout=1)

    def _start(self, work: Coroutine[object, object, None], inbox: Inbox) -> None:
        task = asyncio.create_task(self._guarded(work, inbox))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _work(self, inbox: Inbox) -> None:
        while batch := await inbox.take(self._batch_size):
            self._published[id(batch)] = batch[0].published_at or now()
            try:
                await self._process(batch, inbox)
            finally:
                del self._published[id(batch)]

    def _oldest_seconds(self) -> float:
        """Return for how long the oldest delivery at work has been on the broker; those that wait are younger."""
        return max((now() - min(self._published.values())).total_seconds(), 0.0) if self._published else 0.0

    async def _guarded(self, work: Coroutine[object, object, None], inbox: Inbox) -> None:
        try:
            await work
        except Stale:
            log.info("consumer.stale", queue=self._queue)
        except HeldForLong:
            log.warning("consumer.gave_up", queue=self._queue, reason=self._trouble())
            inbox.given_up.set()
        except asyncio.CancelledError:
            raise
        except Exception:
            # A bug here must not silence the consumer: with its link lost, the supervisor starts afresh.
            log.exception("consumer.broken", queue=self._queue)
            inbox.link.lost.set()

    async def _ask(self, work: Callable[[], Awaitable[T]], inbox: Inbox, *, until: float | None = None) -> T:
        """
        Do *work*, as often as it takes while a dependency is down.

        Raises:
            HeldForLong: if it still is at *until*, by the event loop's clock; with the error to blame, if others were
                answered between two refusals of this one.

        """
        refused_at: float | None = None
        blame: DependencyDown | None = None
        while True:
            inbox.check()
            try:
                async with self._pause.turn(until=until):
                    inbox.check()
                    return await _without_stray_cancel(work)
            except DependencyDown as error:
                if refused_at is None:
                    refused_at = asyncio.get_running_loop().time()
                blame = error if error.may_concern_one and self._answered_since > refused_at else None
            except HeldForLong:
                raise HeldForLong(blame) from blame

    async def _publish(self, message: Outgoing, inbox: Inbox, *, until: float) -> None:
        """
        Publish until confirmed.

        Raises:
            Stale: if the delivery that it follows from is somebody else's anyway.
            HeldForLong: if it is not by *until*, by the event loop's clock.
            Unpublishable: if it never will be.

        """
        address = f"{message.exchange} {message.routing_key}"
        failures = 0
        while True:
            try:
                await self._publisher.publish(message)
            except DependencyDown as error:
                failures += 1
                if failures == 1:
                    log.warning("publish.delayed", queue=self._queue, error=error.code, detail=str(error))
                self._refusals.note(address, str(error))
            else:
                return self._refusals.forget(address)
            if inbox.is_stale:
                self._refusals.forget(address)
                raise Stale
            if asyncio.get_running_loop().time() >= until:
                raise HeldForLong
            await asyncio.sleep(jitter(failures, _PUBLISH_AGAIN_LONGEST_SECONDS))


async def _without_stray_cancel(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except asyncio.CancelledError as error:
        if not is_stray_cancel():
            raise
        raise DependencyDown("a connection was lost in the middle of the work") from error


def jitter(failures: int, longest_seconds: float) -> float:
    """Full jitter below a doubling bound; nothing after a success."""
    if failures == 0:
        return 0.0
    return min(longest_seconds, 0.05 * 2.0 ** min(failures, 16)) * random.random()  # noqa: S311 (jitter, not a secret)
