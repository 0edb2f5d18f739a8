"""Runs the operators' service: ``python -m services.ops``."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from services.ops.api import create_api
from services.ops.migrate import MIGRATIONS, ROLE
from shared.runtime.database import check_database, opened_database
from shared.runtime.http import create_app
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.postgres import Pool
from shared.runtime.settings import OpsSettings, reveal
from shared.runtime.tokens import read_token


async def run(settings: OpsSettings, stopping: asyncio.Event) -> None:
    """Archive, repair and serve until *stopping* is set."""
    async with opened_database(settings, service="ops", role=ROLE, migrations=MIGRATIONS, stopping=stopping) as pool:
        if pool is not None:
            await _run(settings, stopping, pool)


async def _run(settings: OpsSettings, stopping: asyncio.Event, pool: Pool) -> None:
    api = create_api(tokens=[read_token(entry) for entry in reveal(settings.ops_tokens)])
    app = create_app(api, {"database": partial(check_database, pool, MIGRATIONS)})
    await supervise(
        stopping,
        serve(
            app,
            host=settings.host,
            port=settings.ops_port,
            stopping=stopping,
            drain_seconds=settings.drain_seconds,
        ),
    )


if __name__ == "__main__":
    sys.exit(main("ops", OpsSettings, run))
