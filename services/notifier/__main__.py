"""Runs the notifier: ``python -m services.notifier``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from services.notifier.api import create_api
from services.notifier.attempts import Attempts, Slots
from services.notifier.client import Client, Resolve, look_up
from services.notifier.migrate import MIGRATIONS, ROLE
from services.notifier.reader import Reader
from services.notifier.relay import Relay
from services.notifier.signing import Signer
from services.notifier.store import Store
from shared.contract.envelope import Envelope
from shared.contract.topology import DELIVERIES_QUEUE, EVENTS_LOG
from shared.runtime.broker import Consumer, Publisher, one_by_one, opened_log, to_message
from shared.runtime.clock import now
from shared.runtime.database import check_database, opened_database
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.postgres import Pool, confirm_seconds
from shared.runtime.settings import NotifierSettings
from shared.runtime.settings_base import reveal
from shared.runtime.tokens import read_token

_SOURCE = "notifier"


async def run(settings: NotifierSettings, stopping: asyncio.Event, *, resolve: Resolve = look_up) -> None:
    """Deliver and serve until *stopping* is set; *resolve* looks up the names of endpoints."""
    async with opened_database(settings, service=_SOURCE, role=ROLE, migrations=MIGRATIONS, stopping=stopping) as pool:
        if pool is not None:
            await _run(settings, stopping, pool, resolve)


async def _run(settings: NotifierSettings, stopping: asyncio.Event, pool: Pool, resolve: Resolve) -> None:
    plan = settings.topology
    url = settings.amqp_url.get_secret_value()
    at_once = settings.webhook_requests_per_endpoint
    store = Store(pool, at_once=at_once)
    signer = Signer(reveal(settings.webhook_master_secrets))
    client = Client(
        allowed=settings.webhook_allowed_networks, resolve=resolve, seconds=settings.webhook_timeout_seconds
    )
    attempts = Attempts(
        store,
        client.post,
        signer,
        Slots(at_once),
        now=now,
        give_up_after=timedelta(seconds=settings.webhook_give_up_seconds),
    )
    async with Publisher(
        url, name="modelswap notifier", timeout_seconds=confirm_seconds(settings.publish_timeout_seconds)
    ) as publisher:

        async def publish(envelopes: Sequence[Envelope]) -> Sequence[BaseException | None]:
            sends = (publisher.publish(to_message(envelope, plan)) for envelope in envelopes)
            return await asyncio.gather(*sends, return_exceptions=True)

        reader = Reader(store, partial(opened_log, url, f"{_SOURCE} reads {EVENTS_LOG}"), publisher.publish)
        deliveries = Consumer(
            settings,
            publisher,
            queue=DELIVERIES_QUEUE,
            service=_SOURCE,
            handle=one_by_one(attempts.handle),
            workers=settings.webhook_concurrency,
            batch_size=1,
            prefetch=settings.webhook_concurrency,
        )
        # A message may be in the longest delay, and come back to a busy endpoint once.
        lost_after = 2 * max(settings.retry_delays) + timedelta(hours=1)
        relay = Relay(store, publish, now=now, lost_after=lost_after)
        app = create_app(
            create_api(
                store,
                signer,
                allowed=settings.webhook_allowed_networks,
                tokens=[read_token(entry) for entry in reveal(settings.api_tokens)],
            ),
            reporter(
                {
                    "database": partial(check_database, pool, MIGRATIONS),
                    "events": reader.check,
                    "deliveries": deliveries.check,
                    "relay": relay.check,
                },
                optional={"gap": reader.check_gap},
                consumers={DELIVERIES_QUEUE: deliveries.check},
            ),
        )
        await supervise(
            stopping,
            reader.run(stopping),
            deliveries.run(stopping),
            relay.run(stopping),
            relay.keep_in_order(stopping),
            serve(app, settings, port=settings.notifier_port, stopping=stopping),
        )


if __name__ == "__main__":
    sys.exit(main(_SOURCE, NotifierSettings, run))
