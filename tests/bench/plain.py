"""
What most would write: aio-pika and asyncpg, one message at a time, none of our guarantees.

No fence, no outbox, no retry, no dead letter, no mandatory publish, no event after the commit: a webhook is checked and
published, its output is parsed with a split, Replicate (which answers at once) is asked, one row is written.

    python -m tests.bench.plain receiver|extractor|state      settings as the product's own
"""

from __future__ import annotations

import json
import sys
import time

import aio_pika
import asyncpg
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.replicate.signature import verify
from shared.runtime.settings import ExtractorSettings, ReceiverSettings, StateSettings, reveal
from tests.bench.instant import InstantReplicate

COMPLETED = "plain.completed"
READY = "plain.ready"
QUORUM = {"x-queue-type": "quorum"}

SCHEMA = """
CREATE TABLE IF NOT EXISTS plain_trainings (training_id text PRIMARY KEY, user_id text NOT NULL);
CREATE TABLE IF NOT EXISTS plain_handled (training_id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS plain_models (
    user_id text PRIMARY KEY, training_id text NOT NULL, model text NOT NULL, version text NOT NULL,
    at timestamptz NOT NULL DEFAULT now());
"""


async def receiver() -> None:
    settings = ReceiverSettings.load()
    secrets = reveal(settings.webhook_secrets)
    connection = await aio_pika.connect_robust(settings.amqp_url.get_secret_value())
    channel = await connection.channel()
    await channel.declare_queue(COMPLETED, durable=True, arguments=QUORUM)

    async def receive(request: Request) -> Response:
        body = await request.body()
        verify(
            secrets,
            message_id=request.headers["webhook-id"],
            timestamp=request.headers["webhook-timestamp"],
            signatures=request.headers["webhook-signature"],
            body=body,
            now=time.time(),  # noqa: TID251 (an edge)
        )
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, COMPLETED)
        return Response(status_code=202)

    async def ready(_: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route("/webhooks/replicate", receive, methods=["POST"]), Route("/readyz", ready)])
    config = uvicorn.Config(app, port=settings.receiver_port, log_config=None, access_log=False)
    await uvicorn.Server(config).serve()


async def extractor() -> None:
    settings = ExtractorSettings.load()
    replicate = InstantReplicate()
    connection = await aio_pika.connect_robust(settings.amqp_url.get_secret_value())
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=64)
    queue = await channel.declare_queue(COMPLETED, durable=True, arguments=QUORUM)
    await channel.declare_queue(READY, durable=True, arguments=QUORUM)
    async with queue.iterator() as deliveries:
        async for delivery in deliveries:
            async with delivery.process():
                training = json.loads(delivery.body)
                model, version = training["output"]["version"].split(":")
                await replicate.answers(model, version)
                body = json.dumps({"training_id": training["id"], "model": model, "version": version}).encode()
                message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, READY)


async def state() -> None:
    settings = StateSettings.load()
    pool = await asyncpg.create_pool(settings.database_url.get_secret_value(), min_size=2, max_size=8)
    connection = await aio_pika.connect_robust(settings.amqp_url.get_secret_value())
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=64)
    queue = await channel.declare_queue(READY, durable=True, arguments=QUORUM)
    async with queue.iterator() as deliveries:
        async for delivery in deliveries:
            async with delivery.process():
                ready = json.loads(delivery.body)
                async with pool.acquire() as database, database.transaction():
                    first = await database.fetchval(
                        "INSERT INTO plain_handled (training_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING true",
                        ready["training_id"],
                    )
                    if first:
                        await database.execute(
                            "INSERT INTO plain_models (user_id, training_id, model, version)"
                            " SELECT user_id, training_id, $2, $3 FROM plain_trainings WHERE training_id = $1"
                            " ON CONFLICT (user_id) DO UPDATE SET training_id = excluded.training_id,"
                            " model = excluded.model, version = excluded.version, at = now()",
                            ready["training_id"],
                            ready["model"],
                            ready["version"],
                        )


if __name__ == "__main__":
    uvloop.run({"receiver": receiver, "extractor": extractor, "state": state}[sys.argv[1]]())
