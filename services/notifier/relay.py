"""
The relay: hands waiting deliveries to RabbitMQ, and keeps the tables in order. Edge.

Of each endpoint, only as many deliveries are handed over as may be attempted at once; and while an endpoint fails, only
a bounded number waits in the delays. So a thousand deliveries to one endpoint stand in the way of no other's, and fill
no queue. A crash between the broker's confirm and the commit repeats a message, which is then ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from services.notifier.store import Store
from services.notifier.store.relay import Publish
from shared.runtime.periodic import keep_house, run_periodically

#: For deliveries that became due in another process, or by time.
_POLL_SECONDS: Final = 1.0
_HOUSEKEEPING_SECONDS: Final = 60.0
_HOUSEKEEPING_BATCH: Final = 1000


class Relay:
    """Hands waiting deliveries over."""

    def __init__(self, store: Store, publish: Publish, *, now: Callable[[], datetime], lost_after: timedelta) -> None:
        """A message that did not return for *lost_after* was lost; its delivery is handed over again."""
        self._store = store
        self._publish = publish
        self._now = now
        self._lost_after = lost_after
        self._trouble: str | None = None

    async def check(self) -> str | None:
        """Return why deliveries are not handed over, or None."""
        return self._trouble

    async def run(self, stopping: asyncio.Event) -> None:
        """Hand over until *stopping* is set; try again after every loss of Postgres or RabbitMQ."""
        await run_periodically("deliveries", self._round, stopping, wake=self._store.changed, report=self._report)

    async def keep_in_order(self, stopping: asyncio.Event) -> None:
        """Delete old rows, and hand lost deliveries over again, until *stopping* is set."""

        async def work(limit: int) -> int:
            return await self._store.keep_in_order(lost_before=self._now() - self._lost_after, limit=limit)

        await keep_house(work, stopping, batch=_HOUSEKEEPING_BATCH, pause=_HOUSEKEEPING_SECONDS)

    async def _round(self) -> float:
        done = await self._store.relay(self._publish)
        if done.failures:
            raise done.failures[0]
        return 0.0 if done.published else _POLL_SECONDS

    async def _report(self, trouble: str | None) -> None:
        self._trouble = trouble
