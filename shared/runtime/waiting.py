"""How does one wait for whichever comes first?"""

from __future__ import annotations

import asyncio


async def wait_for_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of *events* is set, at most *seconds*."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
