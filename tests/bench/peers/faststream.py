"""The plain pipeline's work with FastStream.   python -m tests.bench.peers.faststream receiver|extractor|state"""

from __future__ import annotations

import sys
from typing import Any

import asyncpg
import uvloop
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from pydantic import SecretStr

from shared.runtime.settings import ExtractorSettings, ReceiverSettings, StateSettings
from tests.bench.instant import InstantReplicate
from tests.bench.peers.common import receive_webhooks, statements

COMPLETED = RabbitQueue("faststream.completed", queue_type=QueueType.QUORUM, durable=True)
READY = RabbitQueue("faststream.ready", queue_type=QueueType.QUORUM, durable=True)
SQL = statements("faststream")


def _broker(url: SecretStr) -> RabbitBroker:
    channel = Channel(prefetch_count=64, publisher_confirms=True)
    return RabbitBroker(url.get_secret_value(), default_channel=channel, logger=None)


async def receiver() -> None:
    broker = _broker(ReceiverSettings.load().amqp_url)
    completed = broker.publisher(COMPLETED, persist=True)

    async def publish(body: bytes) -> None:
        await completed.publish(body, content_type="application/json")

    await broker.start()
    await broker.declare_queue(COMPLETED)
    await receive_webhooks(publish)


async def extractor() -> None:
    replicate = InstantReplicate()
    broker = _broker(ExtractorSettings.load().amqp_url)

    # The answer is published, and confirmed, before the delivery is acknowledged.
    @broker.subscriber(COMPLETED)
    @broker.publisher(READY, persist=True)
    async def extract(training: dict[str, Any]) -> dict[str, Any]:
        model, version = training["output"]["version"].split(":")
        await replicate.answers(model, version)
        return {"training_id": training["id"], "model": model, "version": version}

    await broker.connect()
    await broker.declare_queue(READY)
    await FastStream(broker, logger=None).run()


async def state() -> None:
    settings = StateSettings.load()
    pool = await asyncpg.create_pool(settings.database_url.get_secret_value(), min_size=2, max_size=8)
    broker = _broker(settings.amqp_url)

    @broker.subscriber(READY)
    async def keep(ready: dict[str, Any]) -> None:
        async with pool.acquire() as database, database.transaction():
            if await database.fetchval(SQL.handle, ready["training_id"]):
                await database.execute(SQL.set_model, ready["training_id"], ready["model"], ready["version"])

    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run({"receiver": receiver, "extractor": extractor, "state": state}[sys.argv[1]]())
