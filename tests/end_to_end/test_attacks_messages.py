"""Giant and malformed headers at every hop: each legitimate training is taken, becomes active and is published."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import aiormq
import httpx
import pytest
from aiormq import spec

from services.simulator.simulator import Simulator
from shared.contract.errors import DependencyDown
from shared.contract.events import EVENTS_EXCHANGE, TRAINING_EXCHANGE, ModelActivated, ModelReady, TrainingSucceeded
from shared.contract.topology import DEAD_QUEUE, EXTRACTOR_QUEUE, OPS_QUEUE, PROGRESS_QUEUE, STATE_QUEUE
from shared.replicate.signature import sign
from shared.runtime.clock import now
from shared.runtime.waiting import without_stray_cancel
from tests.end_to_end.test_walk import start
from tests.hostile import HOSTILE, TRACEPARENT, UNREADABLE
from tests.stack import SERVICES, WEBHOOK_SECRET, Stack, plain_client

pytestmark = pytest.mark.attack

_TRAININGS: Final = 10
_STATE_BYTES: Final = (512, 513, 130_639, 130_711, 140_000)
_QUEUES: Final = (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE, OPS_QUEUE, DEAD_QUEUE)
_TROUBLES: Final = (
    "consumer.broken", "consumer.disconnected", "loop.broken", "loop.delayed", "webhook.broken",
)  # fmt: skip


async def post(client: httpx.AsyncClient, training_id: str, output: str, trace: dict[str, str]) -> int | None:
    """Post a signed webhook with these headers; the status, or None where the connection was closed instead."""
    body = json.dumps({"id": training_id, "status": "succeeded", "output": output}).encode()
    message_id, at = f"msg-{uuid4().hex}", int(now().timestamp())
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(WEBHOOK_SECRET, message_id, at, body),
        **trace,
    }
    try:
        return (await client.post("/webhooks/replicate", content=body, headers=headers)).status_code
    except httpx.TransportError:
        return None


async def replay_webhooks(stack: Stack, answers: Counter[int | None]) -> None:
    """Webhooks that are signed, of trainings that nobody knows, with traces of every size."""
    async with plain_client(base_url=stack.url("receiver")) as client:
        while True:
            for size in _STATE_BYTES:
                for trace in ({"traceparent": TRACEPARENT, "tracestate": "b" * size}, {"traceparent": "x" * size}):
                    answers[await post(client, f"attack{size}", "names no version", trace)] += 1


async def publish_straight(stack: Stack) -> None:
    """Hostile messages of both kinds, through the exchanges and into each queue."""
    body = json.dumps({"training_id": "attack"}).encode()
    for headers in HOSTILE.values():
        properties = {
            key: spec.Basic.Properties(
                headers={
                    "ce-id": "1",
                    "ce-source": "x",
                    "ce-time": "soon",
                    "ce-type": f"dev.modelswap.{key}",
                    **headers,
                }
            )
            for key in (TrainingSucceeded.key, ModelReady.key)
        }
        async with stack.broker.channel() as channel:
            await channel.basic_publish(
                body, exchange=TRAINING_EXCHANGE, routing_key=TrainingSucceeded.key,
                properties=properties[TrainingSucceeded.key],
            )  # fmt: skip
            for queue in _QUEUES:
                await channel.basic_publish(body, routing_key=queue, properties=properties[TrainingSucceeded.key])
        # The events log is a stream: RabbitMQ cannot convert a decimal for it, and closes the publisher's connection.
        with contextlib.suppress(aiormq.exceptions.AMQPError, DependencyDown):
            async with stack.broker.channel() as channel:
                await without_stray_cancel(
                    channel.basic_publish(
                        body,
                        exchange=EVENTS_EXCHANGE,
                        routing_key=ModelReady.key,
                        properties=properties[ModelReady.key],
                    )
                )
    for table in UNREADABLE.values():
        for queue in _QUEUES:
            with contextlib.suppress(aiormq.exceptions.AMQPError):  # which RabbitMQ takes some of them
                await stack.broker.publish_raw(queue, table)


@contextlib.asynccontextmanager
async def attacked(stack: Stack) -> AsyncIterator[Counter[int | None]]:
    """How the hostile webhooks are answered that are posted meanwhile."""
    answers: Counter[int | None] = Counter()
    replaying = asyncio.create_task(replay_webhooks(stack, answers))
    try:
        await publish_straight(stack)
        yield answers
    finally:
        replaying.cancel()
        await asyncio.gather(replaying, return_exceptions=True)


async def test_hostile_messages_at_every_hop_harm_no_training(stack: Stack, simulator: Simulator):
    users = [f"user-{uuid4().hex[:8]}" for _ in range(_TRAININGS)]
    async with stack.broker.subscribed(EVENTS_EXCHANGE, ModelActivated.key) as heard, attacked(stack) as answers:
        trainings = [(await start(stack, user))["training_id"] for user in users]
        for training in trainings:
            await stack.until_stage(training, "active")
        told = {json.loads((await stack.broker.wait_for(heard)).body)["training_id"] for _ in trainings}
        await stack.until_ready()

    statuses = {attempt.status for attempt in simulator.attempts if attempt.training_id in trainings}
    assert statuses == {202}
    assert told == set(trainings)
    assert answers[202] > 0
    assert 503 not in answers
    for queue in (*_QUEUES[:2], *_QUEUES[3:]):
        await stack.broker.until(queue, 0)
    logged = [line for name in SERVICES for line in stack.processes[name].lines()]
    # That one of our services is not there yet, or is slow on a busy machine, is no harm of a message.
    lines = [line for line in logged if line.get("error") != "service_down"]
    assert [line for line in lines if line["event"] in _TROUBLES] == []
