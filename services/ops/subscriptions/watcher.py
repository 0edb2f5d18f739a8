"""Looks every half a minute which queues can hold up all subscribers, and how far subscriptions are behind. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from services.ops.subscriptions.views import SubscriptionView
from shared.runtime import telemetry
from shared.runtime.periodic import run_periodically

_EVERY_SECONDS: Final = 30.0
_SHOWN: Final = 5


class Subscriptions(Protocol):
    """The subscriptions on the broker."""

    async def list_all(self) -> list[SubscriptionView]: ...

    async def list_blocking(self) -> list[str]: ...


class SubscriptionsWatch:
    """Counts the queues that can hold up all subscribers, and the events in overflow queues."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._blocking: Sequence[str] = ()
        self._trouble: str | None = None

    async def check(self) -> str | None:
        """Return which queues can hold up all subscribers, or why that is not known; else None."""
        return self._trouble or described(self._blocking)

    async def run(self, stopping: asyncio.Event) -> None:
        """Look until *stopping* is set."""
        await run_periodically("subscriptions", self._look, stopping, report=self._note)

    async def _look(self) -> float:
        self._blocking = await self._subscriptions.list_blocking()
        telemetry.blocking_queues.set(len(self._blocking))
        found = await self._subscriptions.list_all()
        telemetry.overflowed.clear()
        for each in found:
            telemetry.overflowed.labels(each.name).set(each.overflowed)
        return _EVERY_SECONDS

    async def _note(self, trouble: str | None) -> None:
        self._trouble = trouble


def described(reasons: Sequence[str]) -> str | None:
    """Return *reasons* as one sentence for operators; None if there is none."""
    if not reasons:
        return None
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return f"queues bound to modelswap.events can hold up all subscribers: {'; '.join(reasons[:_SHOWN])}{more}"
