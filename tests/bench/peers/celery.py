"""
The plain pipeline's work with Celery, and FastAPI before it.

    python -m tests.bench.peers.celery                                             the receiver
    python -m celery -A tests.bench.peers.celery worker -Q celery.completed        the extractor; celery.ready: state
"""

from __future__ import annotations

import json

import psycopg
import uvloop
from celery import Celery
from celery.signals import worker_process_init
from fastapi import FastAPI, Request, Response
from kombu import Queue
from starlette.concurrency import run_in_threadpool

from shared.runtime.settings import ExtractorSettings, ReceiverSettings, StateSettings
from shared.runtime.settings_base import reveal
from tests.bench.peers.common import serve, signed_body, statements

SQL = statements("celery")
QUEUES = ("celery.completed", "celery.ready")

app = Celery("celery", broker=ExtractorSettings.load().amqp_url.get_secret_value())
app.conf.update(
    task_queues=[Queue(name, durable=True, queue_arguments={"x-queue-type": "quorum"}) for name in QUEUES],
    task_routes={"extract": {"queue": "celery.completed"}, "keep": {"queue": "celery.ready"}},
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_ignore_result=True,
    worker_concurrency=2,
    worker_prefetch_multiplier=32,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
#: The worker process's own connection.
_database: list[psycopg.Connection] = []


@worker_process_init.connect
def _open_database(**_: object) -> None:
    url = StateSettings.load().database_url.get_secret_value()
    # With this cursor the statements are written as the other peers' are, with $1.
    _database.append(psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor))


@app.task(name="extract")
def extract(body: str) -> None:
    training = json.loads(body)
    model, version = training["output"]["version"].split(":")
    if not (model and version):  # Replicate, which answers at once, without an event loop
        raise LookupError(model)
    keep.delay(training["id"], model, version)


@app.task(name="keep")
def keep(training_id: str, model: str, version: str) -> None:
    database = _database[0]
    with database.transaction():
        if database.execute(SQL.handle, [training_id]).fetchone():
            database.execute(SQL.set_model, [training_id, model, version])


async def receiver() -> None:
    settings = ReceiverSettings.load()
    secrets = reveal(settings.webhook_secrets)
    api = FastAPI()

    @api.post("/webhooks/replicate")
    async def receive(request: Request) -> Response:
        body = await signed_body(request, secrets)
        await run_in_threadpool(extract.delay, body.decode())
        return Response(status_code=202)

    @api.get("/readyz")
    async def ready() -> Response:
        return Response()

    await serve(api, settings.receiver_port)


if __name__ == "__main__":
    uvloop.run(receiver())
