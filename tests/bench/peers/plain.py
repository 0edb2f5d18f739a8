"""
aio-pika and asyncpg without a framework, one message at a time.

No fence, no outbox, no retry, no dead letter, no mandatory publish, no event after the commit: a webhook is checked and
published, its output is parsed with a split, Replicate (which answers at once) is asked, one row is written. The other
peers do the same work, each with its library.

    python -m tests.bench.peers.plain receiver|extractor|state      settings as the product's own
"""

from __future__ import annotations

import json
import sys

import aio_pika
import asyncpg
import uvloop

from shared.runtime.settings import ExtractorSettings, ReceiverSettings, StateSettings
from tests.bench.instant import InstantReplicate
from tests.bench.peers.common import receive_webhooks, statements

COMPLETED = "plain.completed"
READY = "plain.ready"
QUORUM = {"x-queue-type": "quorum"}
SQL = statements("plain")


async def receiver() -> None:
    connection = await aio_pika.connect_robust(ReceiverSettings.load().amqp_url.get_secret_value())
    channel = await connection.channel()
    await channel.declare_queue(COMPLETED, durable=True, arguments=QUORUM)

    async def publish(body: bytes) -> None:
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, COMPLETED)

    await receive_webhooks(publish)


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
                    if await database.fetchval(SQL.handle, ready["training_id"]):
                        await database.execute(SQL.set_model, ready["training_id"], ready["model"], ready["version"])


if __name__ == "__main__":
    uvloop.run({"receiver": receiver, "extractor": extractor, "state": state}[sys.argv[1]]())
