"""Runs the state service: ``python -m services.state``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import structlog

from services.state.api import WebhookAddress, create_api
from services.state.handler import Handler
from services.state.inquiries import Inquiries
from services.state.learning import keep_learning
from services.state.migrate import MIGRATIONS
from services.state.outbox import Relay
from services.state.store import ROLE, Store
from services.state.streams import Watcher
from shared.contract.envelope import Envelope
from shared.contract.topology import PROGRESS_QUEUE, STATE_QUEUE, topology
from shared.replicate.client import Replicate
from shared.runtime.aside import SetAside
from shared.runtime.broker import Consumer, Publisher, to_message
from shared.runtime.database import check_database, opened_database
from shared.runtime.http import create_app
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.logs import log_fact
from shared.runtime.postgres import Pool
from shared.runtime.settings import StateSettings, reveal

log = structlog.get_logger()


async def run(settings: StateSettings, stopping: asyncio.Event) -> None:
    """Consume, relay and serve until *stopping* is set."""
    token = settings.replicate_api_token.get_secret_value() if settings.replicate_api_token else ""
    url = settings.amqp_url.get_secret_value()
    async with (
        opened_database(settings, service="state", role=ROLE, migrations=MIGRATIONS, stopping=stopping) as pool,
        Replicate(token, settings.replicate_api_url) as replicate,
        Publisher(url, name="modelswap state", timeout_seconds=settings.publish_timeout_seconds) as publisher,
    ):
        if pool is not None:
            await _run(settings, stopping, pool, replicate, publisher)


async def _run(
    settings: StateSettings, stopping: asyncio.Event, pool: Pool, replicate: Replicate, publisher: Publisher
) -> None:
    plan = topology(settings.retry_delays)
    store = Store(pool)
    inquiries = Inquiries(store, replicate, reveal(settings.ref_secrets))
    handler = Handler(store, inquiries.ask_about)

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
        results = await asyncio.gather(*map(publisher.publish, messages), return_exceptions=True)
        for envelope, result in zip(envelopes, results, strict=True):
            if result is None:
                log_fact(log, "event.published", envelope)
        return results

    relay = Relay(store, publish)
    streams: SetAside[UUID] = SetAside("streams")
    trainers: SetAside[str] = SetAside("durations")
    watcher = Watcher(store, stopping, limit=settings.max_streams, aside=streams)
    app = create_app(
        create_api(
            store,
            replicate,
            watcher,
            webhook=WebhookAddress(settings.public_url, reveal(settings.ref_secrets)),
            api_tokens=reveal(settings.api_tokens),
            ask_later=inquiries.ask_about if settings.replicate_api_token else None,
        ),
        {
            "database": partial(check_database, pool, MIGRATIONS),
            "events": facts.check,
            "outbox": relay.check,
        },
        told={"progress": progress.check},
        aside=(streams, trainers),
    )
    await supervise(
        stopping,
        facts.run(stopping),
        progress.run(stopping),
        relay.run(stopping),
        keep_learning(store, stopping, trainers),
        inquiries.run(stopping),
        watcher.run(),
        serve(
            app,
            host=settings.host,
            port=settings.state_port,
            stopping=stopping,
            drain_seconds=settings.drain_seconds,
            limits=settings.limits,
        ),
    )


if __name__ == "__main__":
    sys.exit(main("state", StateSettings, run))
