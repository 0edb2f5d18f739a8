"""Runs the receiver: ``python -m services.receiver``."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress

from services.receiver.app import ANSWER_SECONDS, WebhookEndpoint, create_app
from services.receiver.webhook_secrets import Secrets
from shared.replicate.client import Replicate
from shared.runtime.broker import LOSSY_SECONDS, Publisher, SplitPublisher, TopologyMismatch, Unconfirmed
from shared.runtime.health import health_routes, reporter
from shared.runtime.lifecycle import main, serve
from shared.runtime.settings import ReceiverSettings
from shared.runtime.settings_base import reveal
from shared.runtime.telemetry import count_replicate_requests
from shared.runtime.waiting import Stopped, unless_stopped


async def run(settings: ReceiverSettings, stopping: asyncio.Event) -> None:
    """Serve until *stopping* is set."""
    plan = settings.topology
    url = settings.amqp_url.get_secret_value()
    token = settings.replicate_api_token.get_secret_value() if settings.replicate_api_token else ""
    async with (
        Replicate(token, settings.replicate_api_url, observe=count_replicate_requests()) as replicate,
        Publisher(
            url,
            name="modelswap receiver",
            topology=plan if settings.declare_topology else None,
            timeout_seconds=min(settings.publish_timeout_seconds, ANSWER_SECONDS),
        ) as publisher,
        Publisher(
            url,
            name="modelswap receiver, progress",
            timeout_seconds=min(settings.publish_timeout_seconds, LOSSY_SECONDS),
        ) as lossy,
    ):
        secrets = Secrets(reveal(settings.webhook_secrets), replicate if token else None, time.monotonic)
        split = SplitPublisher(publisher, lossy, plan)

        async def broker() -> str | None:
            try:
                await publisher.connect()
            except (Unconfirmed, TopologyMismatch) as error:
                return str(error)
            return None

        async def secret() -> str | None:
            known = secrets.are_known or await secrets.refresh()
            return (
                None if known else "no webhook secret: set MODELSWAP_WEBHOOK_SECRETS or MODELSWAP_REPLICATE_API_TOKEN"
            )

        with suppress(Stopped):
            # Connect before the first webhook. If either fails, each webhook that needs it tries again.
            with suppress(Unconfirmed):
                await unless_stopped(stopping, publisher.connect())
            await unless_stopped(stopping, secret())
        endpoint = WebhookEndpoint(
            publisher=split,
            secrets=secrets,
            topology=plan,
            ref_secrets=reveal(settings.ref_secrets),
            tolerance_seconds=settings.webhook_tolerance_seconds,
            max_body_bytes=settings.max_body_bytes,
        )
        report = reporter({"broker": broker, "webhook_secret": secret}, optional={"progress": split.check})
        app = create_app(endpoint, routes=health_routes(report))
        await serve(app, settings, port=settings.receiver_port, stopping=stopping)


if __name__ == "__main__":
    sys.exit(main("receiver", ReceiverSettings, run))
