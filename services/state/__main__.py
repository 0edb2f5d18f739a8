"""Runs the state service: ``python -m services.state``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from services.state.api import WebhookAddress, create_api
from services.state.app import create_app
from services.state.handler import Handler
from services.state.learning import keep_learning
from services.state.migrate import MIGRATIONS
from services.state.outbox import Relay
from services.state.store import ROLE, Store
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.topology import PROGRESS_QUEUE, STATE_QUEUE, topology
from shared.replicate.client import Replicate
from shared.runtime.broker import Consumer, Publisher, to_message
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.postgres import Pool, connect_pool
from shared.runtime.settings import StateSettings, reveal
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_ASK_AGAIN_SECONDS: Final = 1.0


async def run(settings: StateSettings, stopping: asyncio.Event) -> None:
    """Consume, relay and serve until *stopping* is set."""
    pool = await _connect(settings, stopping)
    if pool is None:
        return
    token = settings.replicate_api_token.get_secret_value() if settings.replicate_api_token else ""
    url = settings.amqp_url.get_secret_value()
    try:
        async with (
            Replicate(token, settings.replicate_api_url) as replicate,
            Publisher(url, name="modelswap state", timeout_seconds=settings.publish_timeout_seconds) as publisher,
        ):
            store = Store(pool)
            await _until_migrated(store, stopping)
            await _run(settings, stopping, store, replicate, publisher)
    finally:
        await _close(pool)


async def _run(
    settings: StateSettings, stopping: asyncio.Event, store: Store, replicate: Replicate, publisher: Publisher
) -> None:
    plan = topology(settings.retry_delays)
    handler = Handler(store)

    def consumer(queue: str, batch_size: int) -> Consumer:
        return Consumer(
            settings.amqp_url.get_secret_value(),
            queue=queue,
            service="state",
            handle=handler.handle_progress if queue == PROGRESS_QUEUE else handler.handle,
            publisher=publisher,
            topology=plan,
            delays=settings.retry_delays,
            batch_size=batch_size,
            # One batch is being written while the next one arrives.
            prefetch=2 * batch_size,
            drain_seconds=settings.drain_seconds,
            declares=settings.declare_topology,
        )

    facts, progress = consumer(STATE_QUEUE, 64), consumer(PROGRESS_QUEUE, 200)

    async def publish(envelopes: Sequence[Envelope]) -> Sequence[BaseException | None]:
        messages = (to_message(envelope, plan) for envelope in envelopes)
        return await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)

    async def database() -> str | None:
        try:
            found = await store.latest_migration()
        except DependencyDown as error:
            return str(error)
        return (
            None if found >= MIGRATIONS.latest else f"migration {found} of {MIGRATIONS.latest}: `modelswap db migrate`"
        )

    app = create_app(
        create_api(
            store,
            replicate,
            webhook=WebhookAddress(settings.public_url, reveal(settings.ref_secrets)),
            api_tokens=reveal(settings.api_tokens),
        ),
        {"database": database, "events": facts.check, "progress": progress.check},
    )
    await supervise(
        stopping,
        facts.run(stopping),
        progress.run(stopping),
        Relay(store, publish).run(stopping),
        keep_learning(store, stopping),
        serve(
            app,
            host=settings.host,
            port=settings.state_port,
            stopping=stopping,
            drain_seconds=settings.drain_seconds,
        ),
    )


async def _connect(settings: StateSettings, stopping: asyncio.Event) -> Pool | None:
    """A pool that acts as the service's role, as soon as Postgres answers; None if told to stop before."""
    while not stopping.is_set():
        try:
            return await connect_pool(
                settings.database_url.get_secret_value(),
                application_name="modelswap state",
                role=ROLE,
                max_size=settings.database_pool_size,
            )
        except DependencyDown as error:
            log.warning("database.away", detail=str(error), hint="new here? `modelswap db migrate`")
            await wait_for_any(stopping, seconds=_ASK_AGAIN_SECONDS)
    return None


async def _until_migrated(store: Store, stopping: asyncio.Event) -> None:
    """Wait for the tables that this version needs: without them every delivery would become a dead letter."""
    while not stopping.is_set() and (found := await _latest_migration(store)) < MIGRATIONS.latest:
        log.warning("database.not_migrated", found=found, needed=MIGRATIONS.latest, hint="`modelswap db migrate`")
        await wait_for_any(stopping, seconds=_ASK_AGAIN_SECONDS)


async def _latest_migration(store: Store) -> int:
    try:
        return await store.latest_migration()
    except ModelswapError:
        return 0


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(5):
            await pool.close()
    except TimeoutError:
        pool.terminate()


if __name__ == "__main__":
    sys.exit(main("state", StateSettings, run))
