"""Runs the operators' service: ``python -m services.ops``."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from services.ops.api import create_api
from services.ops.migrate import MIGRATIONS, ROLE
from services.ops.replays.api import create_router
from services.ops.replays.client import Services
from services.ops.replays.engine import Engine
from services.ops.replays.outcomes import Outcomes
from services.ops.replays.store import Store as Replays
from shared.contract.topology import OPS_QUEUE, topology
from shared.runtime.broker import Consumer, Publisher
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
    plan = topology(settings.retry_delays)
    url = settings.amqp_url.get_secret_value()
    replays = Replays(pool)
    async with (
        Publisher(url, name="modelswap ops", timeout_seconds=settings.publish_timeout_seconds) as publisher,
        Services(
            extractor_url=settings.extractor_url,
            state_url=settings.api_url,
            token=settings.api_tokens[0].get_secret_value(),
        ) as services,
    ):
        outcomes = Consumer(
            url,
            queue=OPS_QUEUE,
            service="ops",
            handle=Outcomes(replays).handle,
            publisher=publisher,
            topology=plan,
            delays=settings.retry_delays,
            drain_seconds=settings.drain_seconds,
            declares=settings.declare_topology,
        )
        api = create_api(create_router(replays), tokens=[read_token(entry) for entry in reveal(settings.ops_tokens)])
        app = create_app(api, {"database": partial(check_database, pool, MIGRATIONS), "outcomes": outcomes.check})
        await supervise(
            stopping,
            outcomes.run(stopping),
            Engine(replays, publisher, services, plan).run(stopping),
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
