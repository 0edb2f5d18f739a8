"""
Handle the events of one queue: decode, hand to the handler, publish what follows, and only then ack.

                       ┌──────────── handler returned events ─▶ publish them, await confirms ─┐
    delivery ─▶ decode ┼──────────── TransientError ──────────▶ publish to a delay ───────────┼─▶ ack
                       ├──────────── PermanentError, or the ladder's end ─▶ publish to dead ──┘
                       └──────────── DependencyDown ──────────▶ open the circuit, try again, count nothing

A follow-up that can not be published (`Unpublishable`) is a PermanentError of the delivery that it follows from. A dead
letter that can not be published is left to the broker: rejected, it comes to the dead letters without our headers.

A delivery that finds its dependency down for minutes while others find it up is its own failure, and counts like any
other.

What a lossy queue holds is never published again: where it would be retried, it is dropped and counted.

A handler never publishes and never acks, so "publish before ack" is written once: here. Whatever happens between a
confirm and its ack is a redelivery, which handlers must bear anyway.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from structlog.contextvars import bound_contextvars

from shared.contract.envelope import Envelope, decode, wrap
from shared.contract.errors import UNEXPECTED, DependencyDown, Malformed, PermanentError, code_of
from shared.contract.events import Event
from shared.contract.limits import Unpublishable
from shared.contract.retry import DELAYS, RetryIn, next_step
from shared.contract.text import clean
from shared.contract.topology import DEAD_EXCHANGE, Topology
from shared.runtime import telemetry
from shared.runtime.broker.inbox import Inbox
from shared.runtime.broker.message import Delivery, Outgoing, dead_letter, retry, to_message
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.subscription import Subscription
from shared.runtime.clock import now
from shared.runtime.logs import facts_of, log_fact

log = structlog.get_logger()

_PATIENCE_SECONDS: Final = 300.0

#: What a handler made of one delivery: the events that follow from it, or how it failed.
Result = Sequence[Event] | Exception

#: One result for each envelope, in order. If it raises, each envelope is tried alone.
BatchHandler = Callable[[Sequence[Envelope]], Awaitable[Sequence[Result]]]

#: Returns the events that report a delivery which becomes a dead letter.
OnDeadLetter = Callable[[Envelope, Exception], Sequence[Event]]

#: Did what the handler depends on have to answer, for these events to follow?
IsAnswer = Callable[[Sequence[Event]], bool]


def one_by_one(handle: Callable[[Envelope], Awaitable[Sequence[Event]]]) -> BatchHandler:
    """A handler of single deliveries as a handler of batches of one."""

    async def handle_batch(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        return [await handle(envelope) for envelope in envelopes]

    return handle_batch


def _nothing(_: Envelope, __: Exception) -> Sequence[Event]:
    return ()


def _always(_: Sequence[Event]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Item:
    """A delivery and what it says, if that could be read."""

    delivery: Delivery
    envelope: Envelope | None
    error: Malformed | None
    #: By which every log line about it is found.
    ids: Mapping[str, str] = field(default_factory=dict)


class Consumer:
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
        on_dead_letter: OnDeadLetter = _nothing,
        is_answer: IsAnswer = _always,
        delays: Sequence[timedelta] = DELAYS,
        workers: int = 1,
        batch_size: int = 64,
        prefetch: int = 64,
        drain_seconds: float = 5.0,
        declares: bool = True,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """
        Prepare to consume *queue* as *service*.

        *workers* batches of up to *batch_size* deliveries are handled at a time. *delays* is the ladder of retries.
        *declares*: may this process make the topology exist when it is missing? A delivery that finds a dependency down
        for *patience_seconds*, while others find it up, has failed.
        """
        self._queue = queue
        self._service = service
        self._handle = handle
        self._topology = topology
        self._on_dead_letter = on_dead_letter
        self._is_answer = is_answer
        self._delays = delays
        self._patience_seconds = patience_seconds
        self._subscription = Subscription(
            url,
            queue=queue,
            service=service,
            process=self._process,
            publisher=publisher,
            topology=topology,
            workers=workers,
            batch_size=batch_size,
            prefetch=prefetch,
            drain_seconds=drain_seconds,
            declares=declares,
        )
        #: When the newest attempt began that the dependency answered, by the event loop's clock.
        self._answered_since = float("-inf")
        self._handled, self._retried, self._dead = (
            telemetry.deliveries.labels(queue, result) for result in ("handled", "retried", "dead")
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until *stopping* is set, as `Subscription.run` says."""
        await self._subscription.run(stopping)

    async def check(self) -> str | None:
        """Return what keeps deliveries from being handled now, or None."""
        return await self._subscription.check()

    async def _process(self, batch: Sequence[Delivery], inbox: Inbox) -> None:
        """Handle one batch, from decoding to the ack."""
        items = self._without_made_up([_read(delivery) for delivery in batch], inbox)
        known = [item for item in items if item.envelope is not None]
        results = iter(await self._until_answered(known, inbox) if known else ())
        ends = [(item, self._settle(item, item.error if item.envelope is None else next(results))) for item in items]
        await _together([self._conclude(item, messages, inbox) for item, messages in ends if messages])
        inbox.ack(batch)

    def _without_made_up(self, items: Sequence[_Item], inbox: Inbox) -> Sequence[_Item]:
        """Ack those of *items* that `modelswap trigger` made up for the tests of subscribers: here they do nothing."""
        made_up = [item.envelope for item in items if item.envelope is not None and item.envelope.is_made_up]
        if not made_up:
            return items
        for envelope in made_up:
            log_fact(log, "delivery.ignored", envelope, queue=self._queue, reason="made up by modelswap trigger")
        inbox.ack([item.delivery for item in items if item.envelope in made_up])
        return [item for item in items if item.envelope not in made_up]

    async def _until_answered(self, items: Sequence[_Item], inbox: Inbox) -> Sequence[Result]:
        """
        Handle *items*, as often as it takes while a dependency is down.

        Raises:
            Stale: if the deliveries come again anyway.

        """
        clock = asyncio.get_running_loop().time
        refused_at = float("inf")
        while True:
            try:
                return await self._subscription.circuit.call(partial(self._attempt, items, inbox))
            except DependencyDown as error:
                refused_at = min(refused_at, clock())
                others_were_answered = self._answered_since > refused_at
                if error.may_concern_one and others_were_answered and clock() >= refused_at + self._patience_seconds:
                    return [error] * len(items)

    async def _attempt(self, items: Sequence[_Item], inbox: Inbox) -> Sequence[Result]:
        inbox.check()
        envelopes = [item.envelope for item in items if item.envelope is not None]
        began = asyncio.get_running_loop().time()
        try:
            with _bound(items):
                results = await self._handle(envelopes)
        except DependencyDown:
            raise
        except Exception as error:  # noqa: BLE001 (the one place: it ends in a retry or a dead letter)
            if len(envelopes) == 1:
                return [error]
            log.warning("batch.split", queue=self._queue, size=len(envelopes), error=repr(error))
            return [result for item in items for result in await self._attempt([item], inbox)]
        if any(self._is_answer(result) for result in results if not isinstance(result, Exception)):
            self._answered_since = max(self._answered_since, began)
        return results

    def _settle(self, item: _Item, result: Result | None) -> list[Outgoing]:
        """What is to be published before this delivery may be acked."""
        match result:
            case Exception() as error:
                return self._failed(item, error)
            case None:
                return []
            case events:
                self._handled.inc()
                self._log_handled(item, events)
                return [self._message(event, item.envelope) for event in events]

    def _log_handled(self, item: _Item, events: Sequence[Event]) -> None:
        if item.envelope is not None:
            facts = {"queue": self._queue, "attempt": item.delivery.attempt, "follow": [event.key for event in events]}
            log_fact(log, "delivery.handled", item.envelope, item.ids, **facts)

    def _failed(self, item: _Item, error: Exception) -> list[Outgoing]:
        delivery, code = item.delivery, code_of(error)
        step = next_step(error, attempt=delivery.attempt, delays=self._delays, chance=random.random())  # noqa: S311
        facts = {
            "queue": self._queue,
            "attempt": delivery.attempt,
            "error": code,
            "detail": clean(str(error)),
            **item.ids,
        }
        unexpected = code == UNEXPECTED
        if self._subscription.is_lossy and not isinstance(error, PermanentError):
            return self._drop(code, exc_info=unexpected and error, **facts)
        if isinstance(step, RetryIn):
            log.warning(
                "delivery.retried", delay_seconds=step.delay.total_seconds(), exc_info=unexpected and error, **facts
            )
            self._retried.inc()
            return [retry(delivery, step, now=now())]
        log.error("delivery.dead_lettered", exc_info=unexpected and error, **facts)
        self._dead.inc()
        events = self._on_dead_letter(item.envelope, error) if item.envelope is not None else ()
        return [
            *(self._message(event, item.envelope) for event in events),
            dead_letter(delivery, error, now=now()),
        ]

    def _drop(self, why: str, **facts: object) -> list[Outgoing]:
        """
        Let go of what may be lost, instead of publishing it to a delay.

        While its queue's node is down, what comes back from a delay is refused there, and would hold up the retries of
        all other queues that wait in the same delay.
        """
        log.warning("delivery.dropped", **facts)
        telemetry.dropped.labels(why).inc()
        return []

    def _message(self, event: Event, cause: Envelope | None) -> Outgoing:
        return to_message(wrap(event, source=self._service, now=now(), cause=cause), self._topology)

    async def _conclude(self, item: _Item, messages: Sequence[Outgoing], inbox: Inbox) -> None:
        """Publish *messages*; where one of them can not be, the delivery that they follow from is a dead letter."""
        refused = await self._publish(messages, inbox)
        if refused is not None and messages[-1].exchange != DEAD_EXCHANGE:
            messages = self._failed(item, refused)
            refused = await self._publish(messages, inbox)
        if refused is not None:
            # The dead letter alone, without the event that reports it.
            refused = await self._publish(messages[-1:], inbox)
        if refused is not None:
            log.error("delivery.rejected", queue=self._queue, error=refused.code, detail=str(refused), **item.ids)
            inbox.reject(item.delivery)

    async def _publish(self, messages: Sequence[Outgoing], inbox: Inbox) -> Unpublishable | None:
        """Publish *messages* until they are confirmed; return the reason if one of them can not be published."""
        try:
            await _together([self._subscription.publisher.publish(message, inbox) for message in messages])
        except Unpublishable as error:
            return error
        return None


def _bound(items: Sequence[_Item]) -> AbstractContextManager[None]:
    """Give each log line of the handler the ids of its delivery, where it handles just one."""
    return bound_contextvars(**items[0].ids) if len(items) == 1 else nullcontext()


async def _together(works: Sequence[Coroutine[object, object, None]]) -> None:
    """All of *works*, each to its end; then the error of the first that failed."""
    if len(works) == 1:  # most often; a task would cost as much as the work
        await works[0]
        return
    for end in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(end, BaseException):
            raise end


def _read(delivery: Delivery) -> _Item:
    try:
        envelope = decode(delivery.headers, delivery.content_type, delivery.body)
    except Malformed as error:
        return _Item(delivery, None, error)
    return _Item(delivery, envelope, None, facts_of(envelope))
