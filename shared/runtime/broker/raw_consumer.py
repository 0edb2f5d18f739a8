"""
Raw consumer: stores the messages of one queue without decoding them, and acks stored ones.

    stored                   ack
    DependencyDown           open the circuit, try again with what has arrived; nothing is acked, the rest waits in
                             RabbitMQ
    a message's own error    set it aside (see `batches`): after a pause it is published to the queue's end, then acked,
                             so it is not lost and blocks no other. If it cannot be published, it is requeued
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import structlog

from shared.contract.envelope import attribute
from shared.contract.limits import Unpublishable
from shared.runtime import telemetry
from shared.runtime.aside import SetAside
from shared.runtime.broker.batches import attempt
from shared.runtime.broker.circuit import NotTried
from shared.runtime.broker.message import Delivery, put_back
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.spans import handling, processing
from shared.runtime.broker.subscription import Subscription
from shared.runtime.broker.unacked import Unacked
from shared.runtime.settings import BrokerSettings

log = structlog.get_logger()

#: Stores a batch atomically. Must be idempotent: a stored message may be redelivered.
Keep = Callable[[Sequence[Delivery]], Awaitable[None]]

_PUT_BACK_SECONDS: Final = 30.0


class RawConsumer:
    """Hands the undecoded messages of one queue to a store."""

    def __init__(
        self,
        settings: BrokerSettings,
        publisher: Publisher,
        *,
        queue: str,
        service: str,
        keep: Keep,
        prefetch: int = 32,
        put_back_seconds: float = _PUT_BACK_SECONDS,
    ) -> None:
        """
        Prepare to store the messages of *queue*, as *service*.

        At most *prefetch* messages are in memory, each of the largest size that the broker accepts.
        """
        self._queue = queue
        self._keep = keep
        self._put_back_seconds = put_back_seconds
        self._subscription = Subscription(
            settings,
            publisher,
            queue=queue,
            service=service,
            process=self._process,
            workers=1,
            # One batch is being written while the next one arrives.
            batch_size=max(1, prefetch // 2),
            prefetch=prefetch,
        )
        #: Messages that could not be stored. They are unacked during the pause, so it does not grow.
        self.aside: SetAside[str] = SetAside(queue, first_seconds=put_back_seconds, longest_seconds=put_back_seconds)
        self._kept, self._retried = (telemetry.deliveries.labels(queue, result) for result in ("handled", "retried"))

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until *stopping* is set, as `Subscription.run` says."""
        await self._subscription.run(stopping)

    async def check(self) -> str | None:
        """Return what keeps deliveries from being handled now, or None."""
        return await self._subscription.check()

    async def _process(self, batch: Sequence[Delivery], unacked: Unacked) -> None:
        spans = [processing(delivery)[1] for delivery in batch]
        work = partial(attempt, batch, partial(self._store, unacked), queue=self._queue)
        try:
            with handling(self._queue, spans):
                errors = await self._subscription.circuit.call(work, unacked.pause)
        finally:
            for span in spans:
                span.end()
        kept = [delivery for delivery, error in zip(batch, errors, strict=True) if error is None]
        if self.aside:
            for delivery in kept:
                self.aside.discard(_name(delivery))
        self._kept.inc(len(kept))
        unacked.ack(kept)
        for delivery, error in zip(batch, errors, strict=True):
            if isinstance(error, NotTried):
                unacked.put_again([delivery])
            elif error is not None:
                self.aside.add(_name(delivery), error)
                self._retried.inc()
                self._subscription.start(self._put_back(delivery, unacked), unacked)

    async def _store(self, unacked: Unacked, batch: Sequence[Delivery]) -> Sequence[None]:
        unacked.check()
        await self._keep(batch)
        return [None] * len(batch)

    async def _put_back(self, delivery: Delivery, unacked: Unacked) -> None:
        """Publish *delivery* to the end of its queue, with its original exchange and routing key."""
        await unacked.pause(self._put_back_seconds)
        try:
            await self._subscription.publisher.publish(put_back(delivery), unacked)
        except Unpublishable as error:
            log.warning("delivery.requeued", queue=self._queue, error=error.code, detail=str(error))
            unacked.reject(delivery, requeue=True)
        unacked.ack([delivery])


def _name(delivery: Delivery) -> str:
    """Return a message's name for logs, which is the same when it is redelivered."""
    digest = hashlib.sha256(delivery.body).hexdigest()[:16]
    name = attribute(delivery.headers.get("ce-id")) or "message"
    return f"{name} of {delivery.routing_key}, sha256 {digest}"
