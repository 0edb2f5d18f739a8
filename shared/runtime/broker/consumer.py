"""
What becomes of a delivery? Takes what is there, hands it to the handler, publishes what follows, and only then acks.

                       ┌──────────── handler returned events ─▶ publish them, await confirms ─┐
    delivery ─▶ decode ┼──────────── TransientError ──────────▶ publish to a delay ───────────┼─▶ ack
                       ├──────────── PermanentError, or the ladder's end ─▶ publish to dead ──┘
                       └──────────── DependencyDown ──────────▶ pause, ask again, count nothing;
                                                                once in a while publish it anew, and ack

A handler never publishes and never acks, so "publish before ack" is written once: here. Whatever happens between a
confirm and its ack is a redelivery, which handlers must bear anyway.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from shared.contract.envelope import Envelope, decode, wrap
from shared.contract.errors import UNEXPECTED, DependencyDown, Malformed, code_of
from shared.contract.events import Event
from shared.contract.retry import DELAYS, RetryIn, next_step
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.broker.message import Delivery, Outgoing, dead_letter, give_back, retry, to_message
from shared.runtime.broker.pause import HeldForLong
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.supervisor import Inbox, Supervised
from shared.runtime.clock import now

log = structlog.get_logger()

#: RabbitMQ takes back what is in hand for half an hour, counts that, and after twenty times makes it a dead letter.
_HOLD_SECONDS: Final = 300.0

#: What a handler made of one delivery: the events that follow from it, or how it failed.
Result = Sequence[Event] | Exception

#: One result for each envelope, in order. If it raises, each envelope is tried alone.
BatchHandler = Callable[[Sequence[Envelope]], Awaitable[Sequence[Result]]]

#: What is to be told when a delivery is given up.
GaveUp = Callable[[Envelope, Exception], Sequence[Event]]


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


class Consumer(Supervised):
    """Hands the events of one queue to a handler."""

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
        hold_seconds: float = _HOLD_SECONDS,
    ) -> None:
        """
        Prepare to consume *queue* as *service*.

        *workers* batches of up to *batch_size* deliveries are handled at a time. *delays* is the ladder of retries.
        *declares*: may this process make the topology exist when it is missing? What is in hand for *hold_seconds*
        while a dependency is down is given back, so that no outage is so long that it uses a delivery up.
        """
        super().__init__(
            url,
            queue=queue,
            service=service,
            publisher=publisher,
            topology=topology,
            workers=workers,
            batch_size=batch_size,
            prefetch=prefetch,
            drain_seconds=drain_seconds,
            declares=declares,
        )
        self._handle = handle
        self._gave_up = gave_up
        self._delays = delays
        self._hold_seconds = hold_seconds
        self._handled, self._retried, self._dead = (
            telemetry.deliveries.labels(queue, result) for result in ("handled", "retried", "dead")
        )

    async def _process(self, batch: Sequence[Delivery], inbox: Inbox) -> None:
        """One batch, from decoding to the ack."""
        until = batch[0].came_at + self._hold_seconds
        while batch:
            try:
                await self._process_until(until, batch, inbox)
            except HeldForLong:
                batch = await self._give_back(batch, inbox)
                until = asyncio.get_running_loop().time() + self._hold_seconds
            else:
                return

    async def _process_until(self, until: float, batch: Sequence[Delivery], inbox: Inbox) -> None:
        items = [_read(delivery) for delivery in batch]
        known = [item.envelope for item in items if item.envelope is not None]
        results = iter(await self._ask(partial(self._attempt, known), inbox, until=until) if known else ())
        outgoing: list[Outgoing] = []
        for item in items:
            outgoing += self._settle(item, item.error if item.envelope is None else next(results))
        await self._publish_all(outgoing, inbox)
        await inbox.ack(batch, alone=self._workers == 1)

    async def _give_back(self, batch: Sequence[Delivery], inbox: Inbox) -> list[Delivery]:
        """Publish *batch* anew and ack it; what the broker does not take stays in hand."""
        messages = [give_back(delivery, self._delays[0]) for delivery in batch]
        ends = await asyncio.gather(*map(self._publisher.publish, messages), return_exceptions=True)
        given = [delivery for delivery, end in zip(batch, ends, strict=True) if end is None]
        log.info("deliveries.given_back", queue=self._queue, deliveries=len(given), kept=len(batch) - len(given))
        await inbox.ack(given, alone=False)
        return [delivery for delivery, end in zip(batch, ends, strict=True) if end is not None]

    async def _attempt(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        try:
            return await self._handle(envelopes)
        except DependencyDown:
            raise
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
        delivery, code = item.delivery, code_of(error)
        step = next_step(error, attempt=delivery.attempt, delays=self._delays, chance=random.random())  # noqa: S311
        facts = {
            "queue": self._queue,
            "attempt": delivery.attempt,
            "error": code,
            "detail": str(error),
            **_about(item.envelope),
        }
        unexpected = code == UNEXPECTED
        if isinstance(step, RetryIn):
            log.warning(
                "delivery.retried", delay_seconds=step.delay.total_seconds(), exc_info=unexpected and error, **facts
            )
            self._retried.inc()
            return [retry(delivery, step, now=now())]
        log.error("delivery.dead_lettered", exc_info=unexpected and error, **facts)
        self._dead.inc()
        told = self._gave_up(item.envelope, error) if item.envelope is not None else ()
        return [
            *(self._message(event, item.envelope) for event in told),
            dead_letter(delivery, error, now=now()),
        ]

    def _message(self, event: Event, cause: Envelope | None) -> Outgoing:
        return to_message(wrap(event, source=self._service, now=now(), cause=cause), self._topology)

    async def _publish_all(self, messages: Sequence[Outgoing], inbox: Inbox) -> None:
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


def _read(delivery: Delivery) -> _Item:
    try:
        return _Item(delivery, decode(delivery.headers, delivery.content_type, delivery.body), None)
    except Malformed as error:
        return _Item(delivery, None, error)


def _about(envelope: Envelope | None) -> dict[str, str]:
    if envelope is None:
        return {}
    return {"training_id": envelope.event.training_id, "message_id": envelope.id, "message": envelope.routing_key}
