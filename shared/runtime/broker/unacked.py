"""
The deliveries of one link until their acks: taken in batches, acked with as few frames as possible.

All acks of one turn of the event loop are sent as one frame if possible, an ack of all tags up to one. RabbitMQ handles
such an ack of many deliveries at little more than the cost of one (measured 2026-11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final

import structlog
from aiormq import spec

from shared.runtime.broker.circuit import NotTried
from shared.runtime.broker.link import Link
from shared.runtime.broker.message import Delivery
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_LONGEST_WAIT_SECONDS: Final = 0.05


class Stale(NotTried):
    """The link of these deliveries is lost, or closes as the process stops: the broker redelivers them."""


class Unacked:
    """Deliveries of one link: those that no worker has taken yet, those in hand, and the acks of handled ones."""

    def __init__(self, link: Link, queue: str, stopping: asyncio.Event) -> None:
        self.link = link
        self._queue = queue
        self._stopping = stopping
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._closed = False
        #: Unacked tags; at most the prefetch.
        self._in_hand: set[int] = set()
        #: Those whose ack is sent at the end of this turn.
        self._acked: set[int] = set()

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery."""
        self._in_hand.add(delivery.tag)
        self._waiting.put_nowait(delivery)

    def put_again(self, batch: Iterable[Delivery]) -> None:
        """Queue *batch*, which was taken, again."""
        for delivery in batch:
            self._waiting.put_nowait(delivery)

    async def take(self, limit: int, *, can_wait: Collection[str] = ()) -> list[Delivery]:
        """
        Wait for a delivery; return it with the others that have arrived, up to *limit*. Empty once closed.

        As long as all of them have routing keys in *can_wait*, wait a moment for others.
        """
        batch: list[Delivery] = []
        is_urgent = False
        following = None if self._closed or self._stopping.is_set() else await self._waiting.get()
        until = asyncio.get_running_loop().time() + _LONGEST_WAIT_SECONDS
        while following is not None:
            batch.append(following)
            is_urgent = is_urgent or following.routing_key not in can_wait
            if len(batch) == limit:
                break
            if not self._waiting.empty():
                following = self._waiting.get_nowait()
                continue
            if is_urgent:
                break
            try:
                async with asyncio.timeout_at(until):
                    following = await self._waiting.get()
            except TimeoutError:
                break
        if following is None:
            self._waiting.put_nowait(None)  # for the next worker
        return batch

    def close(self) -> None:
        """Hand out no more deliveries."""
        self._closed = True
        self._waiting.put_nowait(None)

    async def pause(self, seconds: float) -> None:
        """
        Wait *seconds*.

        Raises:
            Stale: at once if the link is lost or the process stops.

        """
        await wait_for_any(self.link.lost, self._stopping, seconds=seconds)
        if self._stopping.is_set() or not self.link.is_open:
            raise Stale

    def check(self) -> None:
        """Raise `Stale` if the link is lost, so that the broker redelivers unacked deliveries."""
        if self._closed and not self.link.is_open:
            raise Stale

    def ack(self, batch: Iterable[Delivery]) -> None:
        """Ack *batch* at the end of this turn, except rejected deliveries."""
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
        """Reject *delivery*: the broker dead-letters it, or with *requeue* redelivers it."""
        self.send_acks()
        self._in_hand.discard(delivery.tag)
        self.link.send(spec.Basic.Reject(delivery_tag=delivery.tag, requeue=requeue))
