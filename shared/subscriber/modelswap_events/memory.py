"""A RabbitMQ in memory, for `testing`: subscriptions' queues with their overflow queues, and the log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelswap_events.errors import Away
from modelswap_events.ports import NEXT, Position
from shared.contract.envelope import CONTENT_TYPE


@dataclass(slots=True)
class Stored:
    """A message in a queue or in the log."""

    headers: Mapping[str, object]
    body: bytes
    returns: int = 0


@dataclass(slots=True)
class Queue:
    """A subscription's queue, and its overflow queue."""

    waiting: deque[Stored] = field(default_factory=deque)
    overflow: list[Stored] = field(default_factory=list)


class Memory:
    """The whole broker. *delivery_limit*: how often a message may come back without an ack."""

    def __init__(self, delivery_limit: int) -> None:
        self.delivery_limit = delivery_limit
        self.queues: dict[str, Queue] = {}
        self.log: list[Stored] = []
        self.links: set[MemoryLink] = set()
        self.is_away = False
        #: Set if the service under test has ended, so that nothing will be handled any more.
        self.is_abandoned = False
        self._changed = asyncio.Event()

    def publish(self, headers: Mapping[str, object], body: bytes) -> None:
        self.log.append(Stored(headers, body))
        for queue in self.queues.values():
            queue.waiting.append(Stored(headers, body))
        for link in self.links:
            link.wake()

    def lose(self, *links: MemoryLink) -> None:
        """Lose the connections."""
        for link in links:
            link.is_open = False
            link.wake()

    def abandon(self, _: object = None) -> None:
        """Have `until_idle` wait no longer."""
        self.is_abandoned = True
        self.tell()

    def tell(self) -> None:
        """Wake `until_idle`."""
        self._changed.set()

    async def until_idle(self, subscription: str) -> None:
        """
        Wait until a consumer of the subscription has acked everything.

        Raises:
            RuntimeError: if the service under test has ended instead.

        """
        while not any(link.is_idle for link in self.links if link.subscription == subscription):
            if self.is_abandoned:
                raise RuntimeError("the service has ended")
            self._changed.clear()
            await self._changed.wait()


class MemoryBroker:
    """The broker, as one subscription sees it."""

    def __init__(self, memory: Memory, subscription: str) -> None:
        self._memory = memory
        self._subscription = subscription

    async def attach(self, position: Position) -> MemoryLink:
        if self._memory.is_away:
            raise Away("RabbitMQ in memory is away")
        link = MemoryLink(self._memory, self._subscription, position)
        self._memory.links.add(link)
        return link


class MemoryLink:
    """A consumer, of the queue or of the log."""

    def __init__(self, memory: Memory, subscription: str, position: Position) -> None:
        self.subscription = subscription
        self.queue = None if isinstance(position, int) else memory.queues.get(subscription)
        self.is_open = True
        #: Waits, with everything acked.
        self.is_idle = False
        #: Without an ack.
        self.in_hand: Stored | None = None
        self._memory = memory
        # A fake's events have no time, so a time is the beginning.
        self._offset = position if isinstance(position, int) else len(memory.log) if position is NEXT else 0
        self._woken = asyncio.Event()

    @property
    def is_log(self) -> bool:
        return self.queue is None

    async def next(self, seconds: float) -> MemoryMessage | None:
        try:
            async with asyncio.timeout(seconds):
                while self.is_open:
                    if message := self._take():
                        return message
                    self.is_idle = True
                    self._memory.tell()
                    self._woken.clear()
                    await self._woken.wait()
        except TimeoutError:
            pass
        finally:
            self.is_idle = False
        return None

    def wake(self) -> None:
        self.is_idle = False
        self._woken.set()

    async def close(self) -> None:
        self.is_open = False
        self._memory.links.discard(self)
        stored, self.in_hand = self.in_hand, None
        if stored is None or self.queue is None:
            return
        stored.returns += 1
        if stored.returns > self._memory.delivery_limit:
            self.queue.overflow.append(stored)
        else:
            self.queue.waiting.appendleft(stored)

    def _take(self) -> MemoryMessage | None:
        if self.queue is None:
            if self._offset < len(self._memory.log):
                self._offset += 1
                return MemoryMessage(self._memory.log[self._offset - 1], self, self._offset - 1)
            self.queue = self._memory.queues.get(self.subscription)
        if self.queue is None or not self.queue.waiting:
            return None
        self.in_hand = self.queue.waiting.popleft()
        return MemoryMessage(self.in_hand, self, None)


@dataclass(frozen=True, slots=True)
class MemoryMessage:
    """One delivery."""

    _stored: Stored
    _link: MemoryLink
    offset: int | None

    @property
    def headers(self) -> Mapping[str, object]:
        return self._stored.headers

    @property
    def content_type(self) -> str:
        return CONTENT_TYPE

    @property
    def body(self) -> bytes:
        return self._stored.body

    async def ack(self) -> None:
        self._link.in_hand = None

    async def reject(self) -> None:
        if self._link.queue is not None and self._link.in_hand is not None:
            self._link.queue.overflow.append(self._stored)
        await self.ack()
