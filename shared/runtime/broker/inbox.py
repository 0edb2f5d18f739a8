"""
The deliveries of one link: taken in batches, settled with as few frames as possible.

All acks of one turn of the event loop are sent as one frame if possible, an ack of all tags up to one. RabbitMQ handles
such an ack of many deliveries at little more than the cost of one (measured 2026-11).

Some deliveries can wait for the next one with the same subject, so that both are handled in one batch. Where they do,
the ack of a delivery waits until all older ones are handled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final

import structlog
from aiormq import spec

from shared.contract.envelope import attribute
from shared.runtime.broker.circuit import NotTried
from shared.runtime.broker.link import Link
from shared.runtime.broker.message import Delivery
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

#: How long a delivery waits for the next one with its subject.
_LONGEST_WAIT_SECONDS: Final = 0.3
#: How many wait at most. In a backlog, what they wait for may be far behind.
_MOST_ALONE: Final = 256


class Stale(NotTried):
    """The link of these deliveries is lost: the broker redelivers them."""


class Inbox:
    """Deliveries of one link that no worker has taken yet, and the acks of handled ones."""

    def __init__(self, link: Link, queue: str, stopping: asyncio.Event, *, can_wait: Collection[str] = ()) -> None:
        """
        Prepare for deliveries of *queue*.

        One with a routing key in *can_wait* waits a moment for the next one with its subject.
        """
        self.link = link
        self._queue = queue
        self._stopping = stopping
        self._can_wait = can_wait
        #: Those that wait for the next one with their subject, and the timers that end their wait.
        self._alone: dict[str, tuple[Delivery, asyncio.TimerHandle]] = {}
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._closed = False
        #: Unacked tags; at most the prefetch.
        self._in_hand: set[int] = set()
        #: Those whose ack is not sent yet.
        self._acked: set[int] = set()
        #: Whether acks are sent at the end of this turn.
        self._is_sending = False

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery."""
        self._in_hand.add(delivery.tag)
        subject = attribute(delivery.headers.get("ce-subject")) if self._can_wait else None
        if subject in self._alone:
            self._release(subject)
        elif subject is not None and delivery.routing_key in self._can_wait:
            self._hold(subject, delivery)
            return
        self._waiting.put_nowait(delivery)

    def _hold(self, subject: str, delivery: Delivery) -> None:
        if len(self._alone) == _MOST_ALONE:
            self._release(next(iter(self._alone)))
        timer = asyncio.get_running_loop().call_later(_LONGEST_WAIT_SECONDS, self._release, subject)
        self._alone[subject] = delivery, timer

    def _release(self, subject: str) -> None:
        delivery, timer = self._alone.pop(subject)
        timer.cancel()
        self._waiting.put_nowait(delivery)

    async def take(self, limit: int) -> list[Delivery]:
        """Wait for a delivery; return it with the others that have arrived, up to *limit*. Empty once closed."""
        batch: list[Delivery] = []
        following = None if self._closed or self._stopping.is_set() else await self._waiting.get()
        while following is not None:
            batch.append(following)
            if len(batch) == limit or self._waiting.empty():
                return batch
            following = self._waiting.get_nowait()
        self._waiting.put_nowait(None)  # for the next worker
        return batch

    def close(self) -> None:
        """Hand out no more deliveries."""
        self._closed = True
        self._waiting.put_nowait(None)

    async def is_closed_within(self, seconds: float) -> bool:
        """Wait *seconds*, or until the link is lost or the process stops; return whether one of these happened."""
        await wait_for_any(self.link.lost, self._stopping, seconds=seconds)
        return self._stopping.is_set() or not self.link.is_open

    @property
    def is_stale(self) -> bool:
        """Whether the link is lost, so that the broker redelivers unacked deliveries."""
        return self._closed and not self.link.is_open

    def check(self) -> None:
        """Raise `Stale` if the broker redelivers these deliveries."""
        if self.is_stale:
            raise Stale

    def ack(self, batch: Iterable[Delivery]) -> None:
        """Ack *batch* at the end of this turn, except rejected deliveries."""
        tags = {delivery.tag for delivery in batch} & self._in_hand
        if tags and not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self.send_acks)
        self._acked |= tags

    def send_acks(self) -> None:
        """Send the acks that are due now."""
        self._is_sending = False
        oldest = min(self._in_hand - self._acked, default=max(self._acked, default=0) + 1)
        below = {tag for tag in self._acked if tag < oldest}
        single = set() if self._can_wait and not self._closed else self._acked - below
        sent = below | single
        self._acked -= sent
        self._in_hand -= sent
        if not self.link.is_open:
            if sent:
                log.info("ack.lost", queue=self._queue, deliveries=len(sent))
            return
        if below:
            self.link.send(spec.Basic.Ack(delivery_tag=max(below), multiple=True))
        for tag in single:
            self.link.send(spec.Basic.Ack(delivery_tag=tag))

    def reject(self, delivery: Delivery, *, requeue: bool = False) -> None:
        """Reject *delivery*: the broker dead-letters it, or with *requeue* redelivers it."""
        self.send_acks()
        self._in_hand.discard(delivery.tag)
        self.link.send(spec.Basic.Reject(delivery_tag=delivery.tag, requeue=requeue))
