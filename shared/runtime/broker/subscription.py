"""
Subscription: consumes one queue until stopped, reconnecting whenever the connection is lost.

Each batch of deliveries is handed to a function that handles and acks it (`consumer`, `raw_consumer`). It runs in our
own tasks: the library cancels its own when a connection dies, in the middle of a commit. Work that outlives its
connection runs to its end; its ack is dropped, and the delivery comes again.

During an outage of a dependency, deliveries stay unacked. After half an hour RabbitMQ requeues them
(`consumer_timeout`) and counts that towards the delivery limit, as it counts a lost connection (measured 2026-11 on
3.10.8 and 4.3.6): with a limit of 100, an outage of two days makes no dead letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from datetime import datetime
from typing import Final

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime import telemetry
from shared.runtime.broker.circuit import CircuitBreaker
from shared.runtime.broker.declare import TopologyMismatch, answered, declare
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, is_refused, no_bare_exception, say
from shared.runtime.broker.message import Delivery
from shared.runtime.broker.persistent_publisher import PersistentPublisher
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.unacked import Stale, Unacked
from shared.runtime.clock import now
from shared.runtime.settings import BrokerSettings
from shared.runtime.waiting import Stopped, jittered_backoff_seconds, unless_stopped, wait_for_any, without_stray_cancel

log = structlog.get_logger()

#: Handles and acks one batch; acks go to the batch's `Unacked`. After DependencyDown it is taken again.
Process = Callable[[Sequence[Delivery], Unacked], Awaitable[None]]

_RECONNECT_FIRST_SECONDS: Final = 0.1
_RECONNECT_LONGEST_SECONDS: Final = 10.0
_CANCEL_SECONDS: Final = 1.0


class Subscription:
    """Consumes one queue, and reports why it cannot."""

    def __init__(
        self,
        settings: BrokerSettings,
        publisher: Publisher,
        *,
        queue: str,
        service: str,
        process: Process,
        workers: int,
        batch_size: int,
        prefetch: int,
        can_wait: Collection[str] = (),
    ) -> None:
        self._url = settings.amqp_url.get_secret_value()
        self._topology = settings.topology
        self._declares = settings.declare_topology
        self._drain_seconds = settings.drain_seconds
        self._queue = queue
        self._service = service
        self._process = process
        #: Whether the queue is lossy: then its failures never stop the process.
        self.is_lossy = self._topology.may_lose(queue)
        self._workers = workers
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._can_wait = can_wait
        #: For the dependencies of *process*.
        self.circuit = CircuitBreaker(queue)
        self.publisher = PersistentPublisher(publisher, queue)
        self._busy: set[asyncio.Task[None]] = set()
        self._link: Link | None = None
        #: When the oldest message of each batch in progress was published first.
        self._published: dict[int, datetime] = {}
        #: Why there is no link.
        self._away = "RabbitMQ was not asked yet"
        telemetry.paused.labels(queue).set_function(lambda: self._trouble() is not None)
        telemetry.oldest_delivery.labels(queue).set_function(self._oldest_seconds)
        self._handle_seconds = telemetry.handle_seconds.labels(queue)

    async def check(self) -> str | None:
        """Return what keeps deliveries from being handled now, or None."""
        return self._trouble()

    def _trouble(self) -> str | None:
        if self.publisher.reason is not None:
            return self.publisher.reason
        if self._link is None or not self._link.is_open:
            return f"{self._queue} is not being consumed: {self._away}"
        return self.circuit.reason

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Consume until *stopping* is set, reconnecting after every loss; then finish the deliveries in progress.

        Raises:
            TopologyMismatch: if the broker has a queue with other arguments than ours, unless *queue* is lossy.

        """
        failures = 0
        try:
            while not stopping.is_set():
                try:
                    await without_stray_cancel(self._consume(stopping))
                    failures = 1  # a link that is lost as soon as it is open must not cause a busy loop
                except Stopped:
                    break
                except TopologyMismatch as error:
                    if not self.is_lossy:
                        raise
                    failures += 1
                    self._away = str(error)
                    log.error("consumer.mismatch", queue=self._queue, detail=str(error))  # noqa: TRY400 (it says it all)
                except (*LINK_ERRORS, DependencyDown) as error:
                    failures += 1
                    self._away = say(error)
                    log.warning(
                        "consumer.disconnected", queue=self._queue, error=repr(error), refused=is_refused(error)
                    )
                pause = jittered_backoff_seconds(
                    failures, first=_RECONNECT_FIRST_SECONDS, longest=_RECONNECT_LONGEST_SECONDS
                )
                await wait_for_any(stopping, seconds=pause)
        finally:
            await self._drain()

    async def _consume(self, stopping: asyncio.Event) -> None:
        """
        Consume on one link until it is lost or *stopping* is set.

        Raises:
            Stopped: if *stopping* is set before consuming starts.

        """
        name = f"{self._service} consumes {self._queue}"
        link = await unless_stopped(stopping, Link.open(self._url, name=name))
        unacked = Unacked(link, self._queue, stopping)
        try:
            consumer_tag = await unless_stopped(stopping, self._begin(link, unacked))
            for _ in range(self._workers):
                self.start(self._work(unacked), unacked)
            self._link, self._away = link, "the connection to RabbitMQ was lost"
            log.info("consumer.started", queue=self._queue)
            await wait_for_any(stopping, link.lost)
            if link.is_open and consumer_tag is not None:
                # Bounded, because the broker may be frozen.
                with no_bare_exception():
                    await link.channel.basic_cancel(consumer_tag, timeout=_CANCEL_SECONDS)
        finally:
            self._link = None
            unacked.close()
            # Deliveries in progress are finished, and acked if the link is open; all others stay unacked.
            if stopping.is_set():
                await self._drain()
            unacked.send_acks()
            await link.close()

    async def _begin(self, link: Link, unacked: Unacked) -> str | None:
        """Start consuming into *unacked*; return the consumer tag."""
        if self._declares:
            await declare(link.channel, self._topology.for_consumer_of(self._queue))
        async with answered(f"consume queue {self._queue}"):
            return await link.consume(self._queue, unacked.put, prefetch=self._prefetch)

    async def _drain(self) -> None:
        if not self._busy:
            return
        _, late = await asyncio.wait(self._busy, timeout=self._drain_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("consumer.abandoned", queue=self._queue, deliveries=len(late))
            await asyncio.wait(late, timeout=1)

    def start(self, work: Coroutine[object, object, None], unacked: Unacked) -> None:
        """Run *work* on deliveries of *unacked* concurrently; `run` waits for its end."""
        task = asyncio.create_task(self._guarded(work, unacked))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _work(self, unacked: Unacked) -> None:
        clock = asyncio.get_running_loop().time
        while batch := await unacked.take(self._batch_size, can_wait=self._can_wait):
            began = clock()
            self._published[id(batch)] = min(each.first_published_at or now() for each in batch)
            try:
                await self._process(batch, unacked)
            except DependencyDown:
                unacked.put_again(batch)
                continue
            finally:
                del self._published[id(batch)]
            self._handle_seconds.observe(clock() - began, telemetry.exemplar(batch[0].headers))

    def _oldest_seconds(self) -> float:
        """Return the age of the oldest delivery in progress; waiting ones are younger."""
        return max((now() - min(self._published.values())).total_seconds(), 0.0) if self._published else 0.0

    async def _guarded(self, work: Coroutine[object, object, None], unacked: Unacked) -> None:
        try:
            await work
        except Stale:
            log.info("consumer.stale", queue=self._queue)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A bug must not stop the consumer: dropping the link makes it reconnect.
            log.exception("consumer.broken", queue=self._queue)
            unacked.link.lost.set()
