"""
Consumer: decodes the deliveries of one queue, handles them, publishes the follow-up events, and then acks.

                       ┌──────────── handler returned events ─▶ publish them, await confirms ─┐
    delivery ─▶ decode ┼──────────── TransientError ──────────▶ publish to a delay ───────────┼─▶ ack
                       ├──────────── PermanentError, or the last attempt ─▶ publish to dead ──┘
                       └──────────── DependencyDown ──────────▶ open the circuit, try again, count no attempt

A follow-up that cannot be published (`Unpublishable`) is a PermanentError of its delivery. A dead letter that cannot be
published is rejected instead, so that the broker dead-letters the message, without our headers.

If a dependency is down for one delivery while others succeed (of its batch, or for minutes), that counts as the
delivery's own failure.

A delivery of a lossy queue is never published again: instead of a retry it is dropped and counted.

A handler never publishes and never acks, so "publish before ack" is implemented only here. A crash between a confirm
and the ack causes a redelivery, for which handlers are idempotent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final

import structlog

from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import UNEXPECTED, DependencyDown, PermanentError, code_of
from shared.contract.events import Event
from shared.contract.limits import Unpublishable
from shared.contract.retry import RetryIn, next_step
from shared.contract.text import clean
from shared.contract.topology import DEAD_EXCHANGE
from shared.runtime import telemetry
from shared.runtime.broker.batches import attempt
from shared.runtime.broker.circuit import NotTried
from shared.runtime.broker.message import Delivery, Item, Outgoing, dead_letter, read, retry, to_message
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.spans import handling, processing
from shared.runtime.broker.subscription import Subscription
from shared.runtime.broker.unacked import Unacked
from shared.runtime.clock import now
from shared.runtime.logs import about, log_fact
from shared.runtime.settings import BrokerSettings
from shared.runtime.waiting import jittered_backoff_seconds

log = structlog.get_logger()

_PATIENCE_SECONDS: Final = 300.0
#: How long a delivery waits whose dependency is down for it alone.
_ALONE_FIRST_SECONDS: Final = 2.0
_ALONE_LONGEST_SECONDS: Final = 60.0

#: The result of one delivery: its follow-up events, or its error.
Result = Sequence[Event] | Exception

#: Returns one result per envelope, in order. If it raises, each envelope is handled alone.
BatchHandler = Callable[[Sequence[Envelope]], Awaitable[Sequence[Result]]]

#: Returns the events that report a delivery which becomes a dead letter.
OnDeadLetter = Callable[[Envelope, Exception], Sequence[Event]]

#: Returns whether these follow-up events prove that the handler's dependency is up.
IsAnswer = Callable[[Sequence[Event]], bool]


def one_by_one(handle: Callable[[Envelope], Awaitable[Sequence[Event]]]) -> BatchHandler:
    """Adapt a handler of single deliveries to batches; they must be of size one."""

    async def handle_batch(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        return [await handle(envelope) for envelope in envelopes]

    return handle_batch


class Consumer:
    """Hands the events of one queue to a handler."""

    def __init__(
        self,
        settings: BrokerSettings,
        publisher: Publisher,
        *,
        queue: str,
        service: str,
        handle: BatchHandler,
        on_dead_letter: OnDeadLetter = lambda _, __: (),
        is_answer: IsAnswer = lambda _: True,
        workers: int = 1,
        batch_size: int = 64,
        prefetch: int = 64,
        can_wait: Collection[type[Event]] = (),
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """
        Prepare to consume *queue* as *service*.

        *workers* batches of up to *batch_size* deliveries are handled concurrently. Events in *can_wait* wait a moment
        for others to be handled with. In batches of one, a delivery whose dependency is down for *patience_seconds*,
        while other deliveries succeed, has failed.
        """
        self._queue = queue
        self._service = service
        self._handle = handle
        self._topology = settings.topology
        self._on_dead_letter = on_dead_letter
        self._is_answer = is_answer
        self._delays = settings.retry_delays
        self._patience_seconds = patience_seconds
        self._in_batches = batch_size > 1
        self._subscription = Subscription(
            settings,
            publisher,
            queue=queue,
            service=service,
            process=self._process,
            workers=workers,
            batch_size=batch_size,
            prefetch=prefetch,
            can_wait={event.key for event in can_wait},
        )
        #: When the newest attempt began that proved the dependency up, by the event loop's clock.
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

    async def _process(self, batch: Sequence[Delivery], unacked: Unacked) -> None:
        """Handle one batch, from decoding to the ack."""
        begun = [read(*processing(delivery)) for delivery in batch]
        try:
            items = self._without_made_up(begun)
            known = [item for item in items if item.envelope is not None]
            results = iter(await self._until_up(known, unacked) if known else ())
            outcomes = [(item, item.error if item.envelope is None else next(results)) for item in items]
            again = {item.delivery.tag for item, result in outcomes if isinstance(result, NotTried)}
            ends = [
                (item, self._follow_ups(item, result)) for item, result in outcomes if not isinstance(result, NotTried)
            ]
            await _together([self._conclude(item, messages, unacked) for item, messages in ends if messages])
            unacked.ack(each for each in batch if each.tag not in again)
            unacked.put_again(each for each in batch if each.tag in again)
        finally:
            for item in begun:
                item.span.end()

    def _without_made_up(self, items: Sequence[Item]) -> Sequence[Item]:
        """Leave out the made-up events of `modelswap trigger`: they are only for testing subscribers."""
        handled = []
        for item in items:
            if item.envelope is not None and item.envelope.is_made_up:
                facts = {"queue": self._queue, "reason": "made up by modelswap trigger"}
                log_fact(log, "delivery.ignored", item.envelope, item.ids, **facts)
            else:
                handled.append(item)
        return handled

    async def _until_up(self, items: Sequence[Item], unacked: Unacked) -> Sequence[Result]:
        """
        Handle *items*, trying again while a dependency is down.

        Raises:
            DependencyDown: if deliveries are handled in batches: it may be down because of one of these, which shows
                only beside others, so that the next attempt must include what has arrived meanwhile.
            Stale: if the broker redelivers them anyway.

        """
        clock = asyncio.get_running_loop().time
        refused_at, alone = float("inf"), 0
        work = partial(attempt, items, partial(self._handle_now, unacked), queue=self._queue)
        while True:
            try:
                return await self._subscription.circuit.call(work, unacked.pause)
            except DependencyDown as error:
                if self._in_batches:
                    raise
                refused_at = min(refused_at, clock())
                if not error.may_concern_one or self._answered_since <= refused_at:
                    continue
                left_seconds = refused_at + self._patience_seconds - clock()
                if left_seconds <= 0:
                    return [error] * len(items)
                # Others are answered, so most likely only this one fails: it must not hold them up again at once.
                alone += 1
                seconds = jittered_backoff_seconds(alone, first=_ALONE_FIRST_SECONDS, longest=_ALONE_LONGEST_SECONDS)
                await unacked.pause(min(seconds, left_seconds))

    async def _handle_now(self, unacked: Unacked, items: Sequence[Item]) -> Sequence[Result]:
        unacked.check()
        envelopes = [item.envelope for item in items if item.envelope is not None]
        began = asyncio.get_running_loop().time()
        ids = about(items[0].ids) if len(items) == 1 else nullcontext()
        with ids, handling(self._queue, [item.span for item in items]):
            results = await self._handle(envelopes)
        if any(self._is_answer(result) for result in results if not isinstance(result, Exception)):
            self._answered_since = max(self._answered_since, began)
        return results

    def _follow_ups(self, item: Item, result: Result | None) -> list[Outgoing]:
        """Return the messages to publish before this delivery may be acked."""
        match result:
            case Exception() as error:
                return self._failed(item, error)
            case None:
                return []
            case events:
                self._handled.inc()
                if item.envelope is not None:
                    follow = [event.key for event in events]
                    facts = {"queue": self._queue, "attempt": item.delivery.attempt, "follow": follow}
                    log_fact(log, "delivery.handled", item.envelope, item.ids, **facts)
                return [self._message(event, item.envelope) for event in events]

    def _failed(self, item: Item, error: Exception) -> list[Outgoing]:
        delivery, code = item.delivery, code_of(error)
        step = next_step(error, attempt=delivery.attempt, delays=self._delays, chance=random.random())
        detail = clean(str(error))
        facts = {"queue": self._queue, "attempt": delivery.attempt, "error": code, "detail": detail, **item.ids}
        unexpected = code == UNEXPECTED
        item.span.fail(code)
        if self._subscription.is_lossy and not isinstance(error, PermanentError):
            return self._drop(code, error if unexpected else None, **facts)
        if isinstance(step, RetryIn):
            write = log.warning if unexpected else log.info
            write("delivery.retried", delay_seconds=step.delay.total_seconds(), exc_info=unexpected and error, **facts)
            self._retried.inc()
            return [retry(delivery, step, error, now=now())]
        log.error("delivery.dead_lettered", exc_info=unexpected and error, **facts)
        self._dead.inc()
        events = self._on_dead_letter(item.envelope, error) if item.envelope is not None else ()
        return [
            *(self._message(event, item.envelope) for event in events),
            dead_letter(delivery, error, now=now()),
        ]

    def _drop(self, why: str, bug: Exception | None, **facts: object) -> list[Outgoing]:
        """
        Drop a delivery of a lossy queue instead of retrying it.

        While the lossy queue's node is down, a message that returns from a delay queue is refused there, and would
        block the retries of all other queues in the same delay queue.
        """
        write = log.warning if bug else log.info
        write("delivery.dropped", exc_info=bug, **facts)
        telemetry.dropped.labels(why).inc()
        return []

    def _message(self, event: Event, cause: Envelope | None) -> Outgoing:
        return to_message(wrap(event, source=self._service, now=now(), cause=cause), self._topology)

    async def _conclude(self, item: Item, messages: Sequence[Outgoing], unacked: Unacked) -> None:
        """Publish *messages*; if one cannot be published, dead-letter the delivery that they follow from."""
        refused = await self._publish(messages, unacked)
        if refused is not None and messages[-1].exchange != DEAD_EXCHANGE:
            messages = self._failed(item, refused)
            refused = await self._publish(messages, unacked)
        if refused is not None:
            # Only the dead letter, without the event that reports it.
            refused = await self._publish(messages[-1:], unacked)
        if refused is not None:
            log.error("delivery.rejected", queue=self._queue, error=refused.code, detail=str(refused), **item.ids)
            unacked.reject(item.delivery)

    async def _publish(self, messages: Sequence[Outgoing], unacked: Unacked) -> Unpublishable | None:
        """Publish *messages* until they are confirmed; return the error if one can never be published."""
        try:
            await _together([self._subscription.publisher.publish(message, unacked) for message in messages])
        except Unpublishable as error:
            return error
        return None


async def _together(works: Sequence[Coroutine[object, object, None]]) -> None:
    """Run all of *works* to their end; then raise the first error."""
    if len(works) == 1:  # the usual case; a task would cost as much as the work
        await works[0]
        return
    for end in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(end, BaseException):
            raise end
