"""
What becomes of a delivery? Takes what is there, hands it to the handler, publishes what follows, and only then acks.

                       ┌──────────── handler returned events ─▶ publish them, await confirms ─┐
    delivery ─▶ decode ┼──────────── TransientError ──────────▶ publish to a delay ───────────┼─▶ ack
                       ├──────────── PermanentError, or the ladder's end ─▶ publish to dead ──┘
                       └──────────── DependencyDown ──────────▶ pause, ask again, count nothing

A handler never publishes and never acks, so "publish before ack" is written once: here. Whatever happens between a
confirm and its ack is a redelivery, which handlers must bear anyway.

Handlers run in our own tasks: the library cancels its own when a connection dies, in the middle of a commit. Work that
outlives its connection goes on to its end, and its ack, which nobody awaits any more, is dropped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage

from shared.contract.envelope import Envelope, decode, wrap
from shared.contract.errors import DependencyDown, Malformed, ModelswapError
from shared.contract.events import Event
from shared.contract.retry import DELAYS, RetryIn, next_step
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker.declare import declare
from shared.runtime.broker.link import LINK_ERRORS, Link, is_refused, is_stray_cancel
from shared.runtime.broker.message import Delivery, Outgoing, dead_letter, retry, to_message
from shared.runtime.broker.pause import Pause
from shared.runtime.broker.publisher import Publisher
from shared.runtime.clock import now
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

#: What a handler made of one delivery: the events that follow from it, or how it failed.
Result = Sequence[Event] | Exception

#: One result for each envelope, in order. If it raises, each envelope is tried alone.
BatchHandler = Callable[[Sequence[Envelope]], Awaitable[Sequence[Result]]]

#: What is to be told when a delivery is given up.
GaveUp = Callable[[Envelope, Exception], Sequence[Event]]

_RECONNECT_LONGEST_SECONDS: Final = 10.0
_CANCEL_SECONDS: Final = 2.0
_PUBLISH_AGAIN_LONGEST_SECONDS: Final = 1.0


def one_by_one(handle: Callable[[Envelope], Awaitable[Sequence[Event]]]) -> BatchHandler:
    """A handler of single deliveries as a handler of batches of one."""

    async def handle_batch(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        return [await handle(envelope) for envelope in envelopes]

    return handle_batch


def _nothing(_: Envelope, __: Exception) -> Sequence[Event]:
    return ()


@dataclass(frozen=True, slots=True)
class _Item:
    """A delivery and what it says, if that could be read."""

    delivery: Delivery
    envelope: Envelope | None
    error: Malformed | None


class _Stale(Exception):  # noqa: N818 (a signal, not an error)
    """The link that brought this work is gone: the broker hands it out again."""


class Consumer:
    """Consumes one queue, over a connection of its own, until told to stop."""

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        service: str,
        handle: BatchHandler,
        publisher: Publisher,
        topology: Topology,
        gave_up: GaveUp = _nothing,
        delays: Sequence[timedelta] = DELAYS,
        workers: int = 1,
        batch_size: int = 64,
        prefetch: int = 64,
        drain_seconds: float = 5.0,
        declares: bool = True,
    ) -> None:
        """
        Prepare to consume *queue* as *service*.

        *workers* batches of up to *batch_size* deliveries are handled at a time. *delays* is the ladder of retries.
        *declares*: may this process make the topology exist when it is missing?
        """
        self._url = url
        self._queue = queue
        self._service = service
        self._handle = handle
        self._publisher = publisher
        self._topology = topology
        self._gave_up = gave_up
        self._delays = delays
        self._workers = workers
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._drain_seconds = drain_seconds
        self._declares = declares
        self._handled = telemetry.deliveries.labels(queue, "handled")
        self._pause = Pause(queue)
        self._busy: set[asyncio.Task[None]] = set()
        self._link: Link | None = None

    async def check(self) -> str | None:
        """What keeps deliveries from being handled now, or None."""
        if self._link is None or not self._link.is_open:
            return f"{self._queue} is not being consumed: RabbitMQ does not answer"
        return self._pause.reason

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Consume until *stopping* is set, through every loss of the broker; then finish what was begun.

        Raises:
            TopologyMismatch: if the broker holds a queue with other arguments than ours.

        """
        failures = 0
        try:
            while not stopping.is_set():
                try:
                    await self._consume(stopping)
                    failures = 1  # a link that is lost as soon as it stands must not become a busy loop
                except LINK_ERRORS as error:
                    failures += 1
                    log.warning(
                        "consumer.disconnected", queue=self._queue, error=repr(error), refused=is_refused(error)
                    )
                except asyncio.CancelledError:
                    if not is_stray_cancel():
                        raise
                    failures += 1
                    log.warning("consumer.disconnected", queue=self._queue, error="the connection was lost")
                await wait_for_any(stopping, seconds=_jitter(failures, _RECONNECT_LONGEST_SECONDS))
        finally:
            await self._drain()

    async def _consume(self, stopping: asyncio.Event) -> None:
        """Consume over one link until it is lost or *stopping* is set."""
        link = await Link.open(self._url, name=f"{self._service} consumes {self._queue}")
        inbox = _Inbox(link, self._queue, stopping)
        try:
            if self._declares:
                await declare(link.channel, self._topology)
            await link.channel.basic_qos(prefetch_count=self._prefetch)
            consumed = await link.channel.basic_consume(self._queue, inbox.put)
            for _ in range(self._workers):
                self._start(self._work(inbox))
            self._link = link
            log.info("consumer.started", queue=self._queue)
            await wait_for_any(stopping, link.lost)
            if link.is_open and consumed.consumer_tag is not None:
                # A frozen broker must not hold up the end.
                await link.channel.basic_cancel(consumed.consumer_tag, timeout=_CANCEL_SECONDS)
        finally:
            self._link = None
            inbox.close()
            # What was begun is finished, and acked if the link still stands; what was not begun stays unacked.
            if stopping.is_set():
                await self._drain()
            await link.close()

    async def _drain(self) -> None:
        if not self._busy:
            return
        _, late = await asyncio.wait(self._busy, timeout=self._drain_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("consumer.abandoned", queue=self._queue, deliveries=len(late))
            await asyncio.wait(late, timeout=1)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _work(self, inbox: _Inbox) -> None:
        try:
            while batch := await inbox.take(self._batch_size):
                await self._process(batch, inbox)
        except _Stale:
            log.info("consumer.stale", queue=self._queue)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A bug here must not silence the consumer: with its link lost, the supervisor starts afresh.
            log.exception("consumer.broken", queue=self._queue)
            inbox.link.lost.set()

    async def _process(self, batch: Sequence[Delivery], inbox: _Inbox) -> None:
        """One batch, from decoding to the ack."""
        items = [_read(delivery) for delivery in batch]
        known = [item.envelope for item in items if item.envelope is not None]
        results = iter(await self._ask(known, inbox) if known else ())
        outgoing: list[Outgoing] = []
        for item in items:
            outgoing += self._settle(item, item.error if item.envelope is None else next(results))
        await self._publish_all(outgoing, inbox)
        await inbox.ack(batch, alone=self._workers == 1)

    async def _ask(self, envelopes: Sequence[Envelope], inbox: _Inbox) -> Sequence[Result]:
        """Hand *envelopes* to the handler, as often as it takes while a dependency is down."""
        while True:
            inbox.check()
            try:
                async with self._pause.turn():
                    inbox.check()
                    return await self._attempt(envelopes)
            except DependencyDown:
                continue

    async def _attempt(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        try:
            return await self._handle(envelopes)
        except DependencyDown:
            raise
        except asyncio.CancelledError as error:
            if not is_stray_cancel():
                raise
            raise DependencyDown("a connection was lost in the middle of the work") from error
        except Exception as error:  # noqa: BLE001 (the one place: it ends in a retry or a dead letter)
            if len(envelopes) == 1:
                return [error]
            log.warning("batch.split", queue=self._queue, size=len(envelopes), error=repr(error))
            return [result for envelope in envelopes for result in await self._attempt([envelope])]

    def _settle(self, item: _Item, result: Result | None) -> list[Outgoing]:
        """What is to be published before this delivery may be acked."""
        match result:
            case Exception() as error:
                return self._failed(item, error)
            case None:
                return []
            case events:
                self._handled.inc()
                return [self._message(event, item.envelope) for event in events]

    def _failed(self, item: _Item, error: Exception) -> list[Outgoing]:
        delivery = item.delivery
        step = next_step(error, attempt=delivery.attempt, delays=self._delays, chance=random.random())  # noqa: S311
        facts = {
            "queue": self._queue,
            "attempt": delivery.attempt,
            "error": error.code if isinstance(error, ModelswapError) else type(error).__name__,
            "detail": str(error),
            **_about(item.envelope),
        }
        unexpected = not isinstance(error, ModelswapError)
        if isinstance(step, RetryIn):
            log.warning(
                "delivery.retried", delay_seconds=step.delay.total_seconds(), exc_info=unexpected and error, **facts
            )
            telemetry.deliveries.labels(self._queue, "retried").inc()
            return [retry(delivery, step, now=now())]
        log.error("delivery.dead_lettered", exc_info=unexpected and error, **facts)
        telemetry.deliveries.labels(self._queue, "dead").inc()
        told = self._gave_up(item.envelope, error) if item.envelope is not None else ()
        return [
            *(self._message(event, item.envelope) for event in told),
            dead_letter(delivery, error, now=now()),
        ]

    def _message(self, event: Event, cause: Envelope | None) -> Outgoing:
        return to_message(wrap(event, source=self._service, now=now(), cause=cause), self._topology)

    async def _publish_all(self, messages: Sequence[Outgoing], inbox: _Inbox) -> None:
        match messages:
            case []:
                return
            case [message]:
                await self._publish(message, inbox)
            case _:
                ends = await asyncio.gather(*(self._publish(m, inbox) for m in messages), return_exceptions=True)
                for end in ends:
                    if isinstance(end, BaseException):
                        raise end

    async def _publish(self, message: Outgoing, inbox: _Inbox) -> None:
        """Publish until confirmed, or until the delivery it follows from is somebody else's anyway."""
        failures = 0
        while True:
            try:
                return await self._publisher.publish(message)
            except DependencyDown as error:
                failures += 1
                if failures == 1:
                    log.warning("publish.delayed", queue=self._queue, error=error.code, detail=str(error))
                inbox.check()
                await asyncio.sleep(_jitter(failures, _PUBLISH_AGAIN_LONGEST_SECONDS))


class _Inbox:
    """Deliveries of one link that nobody has begun, and the acks of those that somebody finished."""

    def __init__(self, link: Link, queue: str, stopping: asyncio.Event) -> None:
        self.link = link
        self._queue = queue
        self._stopping = stopping
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._closed = False

    async def put(self, message: DeliveredMessage) -> None:
        """Called by the library, in a task that it may cancel: nothing else may happen here."""
        properties = message.header.properties
        frame = cast(spec.Basic.Deliver, message.delivery)
        self._waiting.put_nowait(
            Delivery(
                queue=self._queue,
                tag=frame.delivery_tag or 0,
                exchange=message.exchange or "",
                routing_key=message.routing_key or "",
                headers=properties.headers or {},
                content_type=properties.content_type,
                body=message.body,
            )
        )

    async def take(self, limit: int) -> list[Delivery]:
        """One delivery and whatever else has arrived, without waiting for company; empty once closed."""
        batch: list[Delivery] = []
        first = None if self._closed or self._stopping.is_set() else await self._waiting.get()
        if first is None:
            self._waiting.put_nowait(None)  # for the next worker
            return batch
        batch.append(first)
        while len(batch) < limit and not self._waiting.empty():
            following = self._waiting.get_nowait()
            if following is None:
                self._waiting.put_nowait(None)
                break
            batch.append(following)
        return batch

    def close(self) -> None:
        """Begin nothing more."""
        self._closed = True
        self._waiting.put_nowait(None)

    def check(self) -> None:
        """Raise `_Stale` when the broker hands this work to somebody else."""
        if self._closed and not self.link.is_open:
            raise _Stale

    async def ack(self, batch: Sequence[Delivery], *, alone: bool) -> None:
        """Ack *batch*; up to its last tag in one go where nobody else works on this link."""
        try:
            if alone:
                await self.link.channel.basic_ack(batch[-1].tag, multiple=True, wait=False)
            else:
                for delivery in batch:
                    await self.link.channel.basic_ack(delivery.tag, wait=False)
        except LINK_ERRORS as error:
            log.info("ack.lost", queue=self._queue, deliveries=len(batch), error=repr(error))


def _read(delivery: Delivery) -> _Item:
    try:
        return _Item(delivery, decode(delivery.headers, delivery.content_type, delivery.body), None)
    except Malformed as error:
        return _Item(delivery, None, error)


def _about(envelope: Envelope | None) -> dict[str, str]:
    if envelope is None:
        return {}
    return {"training_id": envelope.event.training_id, "message_id": envelope.id, "message": envelope.routing_key}


def _jitter(failures: int, longest_seconds: float) -> float:
    """Full jitter below a doubling bound; nothing after a success."""
    if failures == 0:
        return 0.0
    return min(longest_seconds, 0.05 * 2.0 ** min(failures, 16)) * random.random()  # noqa: S311 (jitter, not a secret)
