"""
A modelswap in memory, for the tests of your service: no RabbitMQ, no API, no waiting.

.. code-block:: python

    async def test_the_generator_uses_the_newest_model():
        modelswap = FakeModelswap()
        modelswap.activate("user-42", "acme/user-42:" + 64 * "a")
        generator = Generator()

        async with modelswap.running(generator.follow(modelswap.models())):
            modelswap.activate("user-42", "acme/user-42:" + 64 * "b")
            await modelswap.settled()

        assert generator.model_of("user-42") == "acme/user-42:" + 64 * "b"

`models` and `subscribe` return the same classes as in production, with the same snapshot, acks, retries and overflow
queue; only the network below them is replaced. To test code that makes its own, pass the fake as *network*.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final
from uuid import uuid4

from modelswap_events.change import Change, change_in
from modelswap_events.errors import Away
from modelswap_events.memory import Memory, MemoryBroker, Queue
from modelswap_events.models import Models
from modelswap_events.ports import Page
from modelswap_events.subscription import Subscription, subscribe
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import Event, ModelActivated, ModelWithdrawn
from shared.contract.identity import ModelRef

_NAME: Final = "test"
#: No behaviour depends on it.
_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
_PAGE_SIZE: Final = 2


class FakeModelswap:
    """
    modelswap in memory: publishes what a test says, to the subscriptions that exist.

    A subscription exists from the first `models`, `subscribe` or `add_subscription` with its name on. *delivery_limit*:
    how often a loop may end on an event before that goes to the overflow queue.
    """

    def __init__(self, *, delivery_limit: int = 20) -> None:
        self._memory = Memory(delivery_limit)
        self._current: dict[str, Change] = {}
        self._generation = 0

    def models(self, subscription: str = _NAME) -> Models:
        """Return the models, as `Models(…)` does in production."""
        self.add_subscription(subscription)
        return Models("", "", "", subscription=subscription, network=self)

    def subscribe(self, subscription: str = _NAME, *, events: Sequence[type[Event]] = ()) -> Subscription:
        """Return the events, as `subscribe(…)` does in production."""
        self.add_subscription(subscription)
        return subscribe("", subscription=subscription, events=events, network=self)

    def activate(
        self, user_id: str, model: str, *, trigger_word: str = "", generation: int | None = None
    ) -> ModelActivated:
        """Make *model* (``owner/name:version``) the current one, unless *generation* is too low; publish the event."""
        ref = ModelRef.parse(model)
        if ref is None:
            raise ValueError(f"{model!r} is not of the form owner/name:version (64 lower-case hex digits)")
        event = ModelActivated(
            training_id=f"training-{uuid4().hex[:8]}",
            user_id=user_id,
            generation=self._next(generation),
            ref=uuid4(),
            model=ref,
            trigger_word=trigger_word,
        )
        self.commit(event)
        self.publish(event)
        return event

    def withdraw(self, user_id: str) -> ModelWithdrawn:
        """Take the user's current model away, and publish the event."""
        current = self._current.get(user_id)
        if current is None or current.model is None:
            raise ValueError(f"{user_id} has no model")
        event = ModelWithdrawn(
            training_id=f"training-{uuid4().hex[:8]}",
            user_id=user_id,
            generation=self._next(None),
            ref=uuid4(),
            previous=current.model,
        )
        self.commit(event)
        self.publish(event)
        return event

    def commit(self, event: Event) -> None:
        """Have the snapshot tell of *event*, unless it tells of a later one; without publishing it."""
        change = change_in(_wrap(event))
        if change is not None:
            known = self._current.get(change.user_id, change)
            self._current[change.user_id] = max(known, change, key=attrgetter("generation"))

    def publish(self, event: Event) -> None:
        """Publish *event*, without an effect on the snapshot: a duplicate, an overtaken or a made-up one."""
        envelope = _wrap(event)
        self.publish_raw(envelope.headers(), envelope.body())

    def publish_raw(self, headers: Mapping[str, object], body: bytes) -> None:
        """Publish any message."""
        self._memory.publish(headers, body)

    def add_subscription(self, subscription: str = _NAME) -> None:
        """Make its queue, if there is none."""
        if subscription not in self._memory.queues:
            self._memory.queues[subscription] = Queue()
            self._memory.lose(*(link for link in self._memory.links if link.subscription == subscription))

    def remove_subscription(self, subscription: str = _NAME) -> None:
        """Delete its queue, with whatever waits in it. Readers go on with the log."""
        del self._memory.queues[subscription]
        self._memory.lose(*(link for link in self._memory.links if link.subscription == subscription))

    def overflow(self, subscription: str = _NAME) -> list[str]:
        """Return the ids of the events in the subscription's overflow queue."""
        return [str(stored.headers.get("ce-id")) for stored in self._memory.queues[subscription].overflow]

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Lose all connections; until the end of the block, neither RabbitMQ nor the API answers."""
        self._memory.is_away = True
        self._memory.lose(*self._memory.links)
        try:
            yield
        finally:
            self._memory.is_away = False

    @asynccontextmanager
    async def running(self, work: Coroutine[object, object, object]) -> AsyncIterator[None]:
        """Run *work*, such as your service's loop, until the end of the block; raise its error if it failed."""
        self._memory.is_abandoned = False
        task = asyncio.create_task(work)
        task.add_done_callback(self._memory.abandon)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def settled(self, subscription: str = _NAME, *, seconds: float = 5) -> None:
        """
        Wait until the snapshot and all events were handled and acked.

        Raises:
            TimeoutError: if that takes longer than so many *seconds*.
            RuntimeError: if the service in `running` has ended instead.

        """
        async with asyncio.timeout(seconds):
            await self._memory.until_idle(subscription)

    def broker(self, _amqp_url: str, subscription: str) -> MemoryBroker:
        """For `Models` and `subscribe`."""
        return MemoryBroker(self._memory, subscription)

    def api(self, _api_url: str, _token: str) -> FakeModelswap:
        """For `Models`."""
        return self

    async def get_page(self, updated_since: datetime | None, cursor: str | None) -> Page:
        """For `Models`."""
        del updated_since
        if self._memory.is_away:
            raise Away("the API in memory is away")
        begin = int(cursor or 0)
        end = begin + _PAGE_SIZE
        changes = list(self._current.values())
        return Page(tuple(changes[begin:end]), str(end) if end < len(changes) else None, _TIME)

    def _next(self, generation: int | None) -> int:
        """Return *generation*, or one that is higher than all before."""
        number = self._generation + 1 if generation is None else generation
        self._generation = max(self._generation, number)
        return number


def _wrap(event: Event) -> Envelope:
    return wrap(event, source="fake", now=_TIME)
