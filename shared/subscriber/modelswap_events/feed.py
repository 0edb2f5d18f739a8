"""
Feed: what `Models` and `Subscription` share: the loop, its ack, retries, and reconnecting.

An item is acked when the loop asks for the next one, so only when its body has returned. One at a time is in hand: each
lost connection and each crash counts against what was in hand, and after too many the broker moves it to the
subscription's overflow queue. With more in hand, a crash loop would take healthy items with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import AsyncGeneratorType
from typing import Any, Final, Generic, TypeVar, cast

from modelswap_events.errors import Away, Refused
from modelswap_events.ports import Broker, Link, Message, Position
from shared.contract.envelope import Envelope, decode
from shared.contract.errors import Malformed

T = TypeVar("T")
V = TypeVar("V")

log = logging.getLogger("modelswap_events")

_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
#: A minute of delays in all.
ATTEMPTS: Final = 8


@dataclass(slots=True)
class Handed(Generic[T]):
    """An item in hand."""

    value: T
    #: Set if it failed too often.
    is_given_up: bool = False


class Feed(ABC, Generic[T]):
    """Items of one subscription: an async iterator, or `run` with a handler. One loop at a time."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Held by the loop that runs; a new one waits until the one before has given back what it had in hand.
        self._turn = asyncio.Lock()
        self._loop: Callable[[], AsyncGeneratorType[Any, None] | None] = lambda: None
        self._was_attached = False

    def __aiter__(self) -> AsyncGenerator[T, None]:
        values = self._values()
        self._begin(values)
        return values

    async def _values(self) -> AsyncGenerator[T, None]:
        async with aclosing(self._in_turn()) as items:
            async for item in items:
                yield item.value

    async def _in_turn(self) -> AsyncGenerator[Handed[T], None]:
        async with self._turn, aclosing(self._hand_out()) as items:
            async for item in items:
                yield item

    def _begin(self, loop: AsyncGenerator[Any, None]) -> None:
        before = self._loop()
        if before is not None and before.ag_frame is not None:
            raise RuntimeError("a loop over it runs already; make another one for a second loop")
        # Weak, so that a loop that was left is closed at once.
        self._loop = weakref.ref(cast("AsyncGeneratorType[Any, None]", loop))

    async def run(self, handle: Callable[[T], Awaitable[object]], *, attempts: int = ATTEMPTS) -> None:
        """
        Call *handle* with each item, for ever.

        If it raises, it is called again with the same item, after growing delays (a minute in all by default). After
        so many *attempts* the error is logged, the item goes to the subscription's overflow queue, and the next one
        follows.
        """
        items = self._in_turn()
        self._begin(items)
        async with aclosing(items):
            async for item in items:
                item.is_given_up = not await _try(handle, item.value, attempts)

    @abstractmethod
    def _hand_out(self) -> AsyncGenerator[Handed[T], None]:
        """Yield items for ever; one that was not given up has been handled when the next one is asked for."""

    @asynccontextmanager
    async def _attached(self, position: Position) -> AsyncIterator[Link]:
        """Attach, however long that takes; close the link at the end."""
        link = await self._until_there(lambda: self._broker.attach(position), raises=not self._was_attached)
        self._was_attached = True
        try:
            yield link
        finally:
            await link.close()

    async def _until_there(self, ask: Callable[[], Awaitable[V]], *, raises: bool) -> V:
        """
        Ask until there is an answer.

        Raises:
            Refused: if we are refused and *raises*. Later it may be an operator's mistake that will be mended.

        """
        failures = 0
        while True:
            try:
                return await ask()
            except (Away, Refused) as error:
                if raises and isinstance(error, Refused):
                    raise
                delay = _delay_seconds(failures)
                failures += 1
                log.warning("%s; tried again in %.1f s", error, delay)
                await asyncio.sleep(delay)


async def envelope_in(message: Message) -> Envelope | None:
    """Decode *message*; if that is impossible, log it, have it moved to the overflow queue, and return None."""
    try:
        return decode(message.headers, message.content_type, message.body)
    except Malformed as error:
        log.warning(
            "%s is skipped, because this version of modelswap-events does not know it: %s",
            message.headers.get("ce-type", "a message"),
            error,
        )
    await message.reject()
    return None


async def _try(handle: Callable[[V], Awaitable[object]], value: V, attempts: int) -> bool:
    """Return whether *handle* did not raise, in so many *attempts*."""
    for failures in range(attempts):
        try:
            await handle(value)
        except Exception:
            if failures + 1 == attempts:
                log.exception("given up after %d attempts: %r", attempts, value)
                return False
            delay = _delay_seconds(failures)
            log.exception("attempt %d of %d failed, again in %.1f s: %r", failures + 1, attempts, delay, value)
            await asyncio.sleep(delay)
        else:
            return True
    return False


def _delay_seconds(failures: int) -> float:
    longest = min(_FIRST_DELAY_SECONDS * 2.0 ** min(failures, 16), _LONGEST_DELAY_SECONDS)
    return longest * random.uniform(0.5, 1)
