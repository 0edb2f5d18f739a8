"""
Store the messages of one queue, whatever they are; ack what is stored.

    stored                   ack
    DependencyDown           open the circuit, try again; nothing is acked, the rest waits in RabbitMQ
    any other error          each of the batch alone; one that fails alone is set aside: put at the queue's end after
                             a while, and acked once it is there, so it is not lost and holds up no other. What can
                             not be published anew is requeued instead
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from shared.contract.errors import DependencyDown
from shared.contract.limits import Unpublishable, attribute
from shared.contract.topology import Topology
from shared.runtime import telemetry
from shared.runtime.aside import SetAside
from shared.runtime.broker.inbox import Inbox
from shared.runtime.broker.message import Delivery, put_back
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.subscription import Subscription

log = structlog.get_logger()

#: Stores a batch, whole or not at all. What was stored before may come again.
Keep = Callable[[Sequence[Delivery]], Awaitable[None]]

_PUT_BACK_SECONDS: Final = 30.0


class RawConsumer:
    """Hands the messages of one queue to a store, as they are."""

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        service: str,
        keep: Keep,
        publisher: Publisher,
        topology: Topology,
        prefetch: int = 32,
        drain_seconds: float = 5.0,
        declares: bool = True,
        put_back_seconds: float = _PUT_BACK_SECONDS,
    ) -> None:
        """
        Prepare to keep what is in *queue*, as *service*.

        At most *prefetch* messages are in memory: the largest that the broker lets through, times that, is the bound.
        """
        self._queue = queue
        self._keep = keep
        self._put_back_seconds = put_back_seconds
        self._subscription = Subscription(
            url,
            queue=queue,
            service=service,
            process=self._process,
            publisher=publisher,
            topology=topology,
            workers=1,
            # One batch is being written while the next one arrives.
            batch_size=max(1, prefetch // 2),
            prefetch=prefetch,
            drain_seconds=drain_seconds,
            declares=declares,
        )
        #: What could not be stored. It waits in RabbitMQ; its pause does not grow, because it is unacked meanwhile.
        self.aside: SetAside[str] = SetAside(queue, first_seconds=put_back_seconds, longest_seconds=put_back_seconds)
        self._kept, self._retried = (telemetry.deliveries.labels(queue, result) for result in ("handled", "retried"))

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until *stopping* is set, as `Subscription.run` says."""
        await self._subscription.run(stopping)

    async def check(self) -> str | None:
        """Return what keeps deliveries from being handled now, or None."""
        return await self._subscription.check()

    async def _process(self, batch: Sequence[Delivery], inbox: Inbox) -> None:
        refused = await self._until_answered(batch, inbox)
        later = {delivery.tag for delivery in refused}
        kept = [delivery for delivery in batch if delivery.tag not in later]
        if self.aside:
            for delivery in kept:
                self.aside.discard(_name(delivery))
        self._kept.inc(len(kept))
        inbox.ack(kept)
        for delivery in refused:
            self._subscription.start(self._put_back(delivery, inbox), inbox)

    async def _until_answered(self, batch: Sequence[Delivery], inbox: Inbox) -> list[Delivery]:
        """Store *batch*, as often as it takes while the store is down; return what it refuses."""
        while True:
            with suppress(DependencyDown):
                return await self._subscription.circuit.call(partial(self._attempt, batch, inbox))

    async def _attempt(self, batch: Sequence[Delivery], inbox: Inbox) -> list[Delivery]:
        """Store *batch*; return what is refused, each message tried alone."""
        inbox.check()
        try:
            await self._keep(batch)
        except DependencyDown:
            raise
        except Exception as error:  # noqa: BLE001 (each is tried alone, and set aside with its error)
            if len(batch) > 1:
                log.warning("batch.split", queue=self._queue, size=len(batch), error=repr(error))
                return [each for delivery in batch for each in await self._attempt([delivery], inbox)]
            self.aside.add(_name(batch[0]), error)
            self._retried.inc()
            return list(batch)
        return []

    async def _put_back(self, delivery: Delivery, inbox: Inbox) -> None:
        """Put *delivery* behind all others, by the road on which it came."""
        if await inbox.is_closed_within(self._put_back_seconds):
            return  # unacked, so the broker hands it out again
        try:
            await self._subscription.publisher.publish(put_back(delivery), inbox)
        except Unpublishable as error:
            log.warning("delivery.requeued", queue=self._queue, error=error.code, detail=str(error))
            inbox.reject(delivery, requeue=True)
        inbox.ack([delivery])


def _name(delivery: Delivery) -> str:
    """What a message is called in logs, and known by when it comes again."""
    digest = hashlib.sha256(delivery.body).hexdigest()[:16]
    name = attribute(delivery.headers.get("ce-id")) or "message"
    return f"{name} of {delivery.routing_key}, sha256 {digest}"
