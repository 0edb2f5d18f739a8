"""
The deliveries of one link: taken in batches, settled with as few frames as possible.

Whatever is acked in one turn of the event loop leaves in one frame where that is possible: an ack for all up to a tag.
RabbitMQ handles one such ack for many deliveries at little more than the cost of one (measured 2026-11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage

from shared.runtime.broker.circuit import NotTried
from shared.runtime.broker.link import Link
from shared.runtime.broker.message import Delivery
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()


class Stale(NotTried):
    """The link that brought this work is gone: the broker hands it out again."""


class Inbox:
    """Deliveries of one link that no worker has begun, and the acks of those that are finished."""

    def __init__(self, link: Link, queue: str, stopping: asyncio.Event) -> None:
        self.link = link
        self._queue = queue
        self._stopping = stopping
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._closed = False
        #: Tags that the broker counts as in our hands; at most the prefetch.
        self._in_hand: set[int] = set()
        #: Those of them whose ack leaves at the end of this turn.
        self._acked: set[int] = set()

    async def put(self, message: DeliveredMessage) -> None:
        """Take a delivery from the library, in a task that it may cancel: nothing else may happen here."""
        properties = message.header.properties
        tag = cast(spec.Basic.Deliver, message.delivery).delivery_tag or 0
        self._in_hand.add(tag)
        self._waiting.put_nowait(
            Delivery(
                queue=self._queue,
                tag=tag,
                exchange=message.exchange or "",
                routing_key=message.routing_key or "",
                headers=properties.headers or {},
                content_type=properties.content_type,
                body=message.body,
                published_at=properties.timestamp,
            )
        )

    async def take(self, limit: int) -> list[Delivery]:
        """Return one delivery and whatever else has arrived, without waiting for more; nothing once closed."""
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

    async def is_closed_within(self, seconds: float) -> bool:
        """Wait; True as soon as nothing more is to be begun."""
        await wait_for_any(self.link.lost, self._stopping, seconds=seconds)
        return self._stopping.is_set() or not self.link.is_open

    @property
    def is_stale(self) -> bool:
        """Does the broker hand out this work again?"""
        return self._closed and not self.link.is_open

    def check(self) -> None:
        """Raise `Stale` when the broker hands out this work again."""
        if self.is_stale:
            raise Stale

    def ack(self, batch: Iterable[Delivery]) -> None:
        """Ack *batch* at the end of this turn; what was rejected is left as it is."""
        tags = {delivery.tag for delivery in batch} & self._in_hand
        if not tags:
            return
        if not self._acked:
            asyncio.get_running_loop().call_soon(self.send_acks)
        self._acked |= tags

    def send_acks(self) -> None:
        """Send the acks that are due now."""
        acked, self._acked = self._acked, set()
        self._in_hand -= acked
        if not acked:
            return
        if not self.link.is_open:
            log.info("ack.lost", queue=self._queue, deliveries=len(acked))
            return
        oldest = min(self._in_hand, default=max(acked) + 1)
        below = [tag for tag in acked if tag < oldest]
        if below:
            self.link.send(spec.Basic.Ack(delivery_tag=max(below), multiple=True))
        for tag in acked:
            if tag > oldest:
                self.link.send(spec.Basic.Ack(delivery_tag=tag))

    def reject(self, delivery: Delivery, *, requeue: bool = False) -> None:
        """Let the broker make a dead letter of *delivery*, or with *requeue* hand it out again."""
        self.send_acks()
        self._in_hand.discard(delivery.tag)
        self.link.send(spec.Basic.Reject(delivery_tag=delivery.tag, requeue=requeue))
