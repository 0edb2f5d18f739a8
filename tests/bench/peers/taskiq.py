"""
The plain pipeline's work with taskiq and taskiq-aio-pika.

    python -m tests.bench.peers.taskiq                                  the receiver
    python -m taskiq worker tests.bench.peers.taskiq:extracting         the extractor; with :keeping, state
"""

from __future__ import annotations

import json

import asyncpg
import uvloop
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType

from shared.runtime.settings import ExtractorSettings, StateSettings
from tests.bench.instant import InstantReplicate
from tests.bench.peers.common import receive_webhooks, statements

SQL = statements("taskiq")
replicate = InstantReplicate()


def _broker(name: str) -> AioPikaBroker:
    return AioPikaBroker(
        ExtractorSettings.load().amqp_url.get_secret_value(),
        qos=64,
        exchange=Exchange(name=name, durable=True),
        task_queues=[Queue(name=name, type=QueueType.QUORUM, durable=True)],
    )


extracting, keeping = _broker("taskiq.completed"), _broker("taskiq.ready")


@extracting.on_event(TaskiqEvents.WORKER_STARTUP)
async def _start_publishing(_: TaskiqState) -> None:
    await keeping.startup()


@keeping.on_event(TaskiqEvents.WORKER_STARTUP)
async def _open_database(state: TaskiqState) -> None:
    url = StateSettings.load().database_url.get_secret_value()
    state.pool = await asyncpg.create_pool(url, min_size=2, max_size=8)


@extracting.task(task_name="extract")
async def extract(body: str) -> None:
    training = json.loads(body)
    model, version = training["output"]["version"].split(":")
    await replicate.answers(model, version)
    await keep.kiq(training["id"], model, version)


@keeping.task(task_name="keep")
async def keep(training_id: str, model: str, version: str) -> None:
    async with keeping.state.pool.acquire() as database, database.transaction():
        if await database.fetchval(SQL.handle, training_id):
            await database.execute(SQL.set_model, training_id, model, version)


async def receiver() -> None:
    async def publish(body: bytes) -> None:
        await extract.kiq(body.decode())

    await extracting.startup()
    await receive_webhooks(publish)


if __name__ == "__main__":
    uvloop.run(receiver())
