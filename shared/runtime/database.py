"""Opens a process's database: waits for Postgres, then for the migrations that this version needs. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from shared.contract.errors import DependencyDown, ModelswapError
from shared.runtime.migrations import Migrations
from shared.runtime.postgres import Pool, acquired, connect_pool
from shared.runtime.settings import DatabaseSettings
from shared.runtime.waiting import Stopped, unless_stopped

log = structlog.get_logger()

_ASK_AGAIN_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0


@asynccontextmanager
async def opened_database(
    settings: DatabaseSettings,
    *,
    service: str,
    role: str,
    migrations: Migrations,
    stopping: asyncio.Event,
    plans_once: bool = False,
) -> AsyncIterator[Pool | None]:
    """
    Yield a pool that acts as *role*, once all *migrations* are applied; None if *stopping* is set before.

    *plans_once* is that of `connect_pool`.
    """
    try:
        pool = await unless_stopped(stopping, _connect(settings, service, role, plans_once=plans_once))
    except Stopped:
        yield None
        return
    ending = asyncio.create_task(_hang_up(pool, stopping, settings.drain_seconds))
    try:
        # Without the migrations that this version needs, every delivery would become a dead letter.
        with suppress(Stopped):
            await unless_stopped(stopping, _until_migrated(pool, migrations))
        yield None if stopping.is_set() else pool
    finally:
        ending.cancel()
        await _close(pool)


async def check_database(pool: Pool, migrations: Migrations) -> str | None:
    """Return why the database cannot be used now, or None."""
    try:
        async with acquired(pool) as connection:
            found = await migrations.latest_applied(connection)
    except ModelswapError as error:
        return str(error)
    if found >= migrations.latest:
        return None
    return f"migration {found} of {migrations.latest} of {migrations.schema}: `modelswap db migrate`"


async def _connect(settings: DatabaseSettings, service: str, role: str, *, plans_once: bool) -> Pool:
    while True:
        try:
            return await connect_pool(
                settings.database_url.get_secret_value(),
                application_name=f"modelswap {service}",
                role=role,
                plans_once=plans_once,
                max_size=settings.database_pool_size,
            )
        except DependencyDown as error:
            log.warning("database.away", detail=str(error), hint="new here? `modelswap db migrate`")
            await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _until_migrated(pool: Pool, migrations: Migrations) -> None:
    while detail := await check_database(pool, migrations):
        log.warning("database.not_usable", detail=detail)
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _hang_up(pool: Pool, stopping: asyncio.Event, drain_seconds: float) -> None:
    """Terminate the pool *drain_seconds* after *stopping* is set: a hanging Postgres must not delay the exit."""
    await stopping.wait()
    await asyncio.sleep(drain_seconds)
    pool.terminate()


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()
