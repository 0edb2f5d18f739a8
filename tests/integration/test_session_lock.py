"""A session lock is kept by a holder that lives, and goes to another one when the holder is dead or silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

import pytest

from services.state.store import ROLE
from shared.contract.errors import DependencyDown
from shared.runtime.postgres import Pool, connect_pool
from shared.runtime.session_lock import session_lock
from tests.state import Wire, connected

NAME: Final = "test"
_SILENT_SECONDS: Final = 2.0
#: Much longer than a busy machine takes between two pings.
_LONG_SECONDS: Final = 20.0
_PINGED_AT: Final = """
    SELECT state_change FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT true'
"""


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=2)
    yield pool
    pool.terminate()


async def until_taken(pool: Pool) -> None:
    async with asyncio.timeout(60):
        while True:
            async with session_lock(pool, NAME) as lock:
                if lock is not None:
                    return
            await asyncio.sleep(0.05)


async def test_a_living_holder_keeps_the_lock(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shared.runtime.session_lock._PINGS", 80)
    pinged_at = set[datetime | None]()
    async with session_lock(pool, NAME, silent_seconds=_LONG_SECONDS) as lock, connected(database_url) as observer:
        async with asyncio.timeout(120):
            while len(pinged_at - {None}) < 10:
                pinged_at.add(await observer.fetchval(_PINGED_AT))
                await asyncio.sleep(0.05)
        async with session_lock(pool, NAME) as other:
            pass

    assert lock is not None
    assert other is None


async def test_a_silent_holder_loses_the_lock_and_learns_it(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    # The end of a ping that takes too long would end the session, too.
    monkeypatch.setattr("shared.runtime.postgres._COMMAND_SECONDS", 600.0)
    async with AsyncExitStack() as opened:
        wire = await opened.enter_async_context(Wire(database_url))
        far = await connect_pool(wire.url, application_name="test", role=ROLE, min_size=1, max_size=2)
        opened.callback(far.terminate)
        held = session_lock(far, NAME, silent_seconds=_SILENT_SECONDS)
        assert await held.__aenter__() is not None
        wire.silence()

        await until_taken(pool)

        with pytest.raises(DependencyDown):
            await held.__aexit__(None, None, None)


async def test_a_lock_is_free_after_an_error(pool: Pool):
    with pytest.raises(ValueError, match="mine"):
        async with session_lock(pool, NAME):
            raise ValueError("mine")

    await until_taken(pool)
