"""How does one keep a receiver busy without being the slowest part? Signed webhooks over keep-alive connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.replicate.signature import sign
from tests.stack import WEBHOOK_SECRET


@dataclass(frozen=True, slots=True)
class Webhook:
    """One completion, ready to be posted."""

    training_id: str
    request: bytes


def webhook(training_id: str, version: str, destination: str, *, host: str, port: int) -> Webhook:
    """A completion as Replicate posts it: about 2 kB."""
    body = (
        '{"completed_at":"2026-11-24T01:39:07.017584Z","created_at":"2026-11-24T01:11:12.069000Z",'
        f'"data_removed":false,"error":null,"id":"{training_id}",'
        '"input":{"steps":1500,"lora_rank":16,"input_images":"https://replicate.delivery/pbxt/x/images.zip",'
        '"trigger_word":"TOK","learning_rate":0.0004},'
        f'"logs":"{"flux_train_replicate: 100% | 1500/1500 [27:50<00:00]" * 20}",'
        '"metrics":{"predict_time":1674.9,"total_time":1674.9},'
        f'"output":{{"version":"{destination}:{version}",'
        '"weights":"https://replicate.delivery/xezq/x/trained_model.tar"},'
        '"started_at":"2026-11-24T01:11:12.077327Z","status":"succeeded",'
        '"model":"ostris/flux-dev-lora-trainer",'
        '"version":"e440909d3512c31646ee2e0c7d6f6f4923224863a6a10c494606e79fb5844497"}'
    ).encode()
    now = int(time.time())  # noqa: TID251 (a webhook's own time)
    head = (
        f"POST /webhooks/replicate HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"webhook-id: msg_{training_id}\r\nwebhook-timestamp: {now}\r\n"
        f"webhook-signature: {sign(WEBHOOK_SECRET, f'msg_{training_id}', now, body)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return Webhook(training_id, head.encode() + body)


class _Connection:
    """One keep-alive connection that posts one webhook after the other; opened anew once the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, webhook: Webhook) -> None:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(webhook.request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(f"{webhook.training_id} was answered {head.splitlines()[0].decode()}")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def post_all(webhooks: Sequence[Webhook], *, host: str, port: int, connections: int) -> None:
    """Post *webhooks* as fast as they are answered."""
    queue = iter(webhooks)
    await asyncio.gather(*(_drain(queue, host, port) for _ in range(connections)))


async def _drain(queue: Iterable[Webhook], host: str, port: int) -> None:
    connection = _Connection(host, port)
    for webhook in queue:
        await connection.post(webhook)
    connection.close()


async def post_at_rate(webhooks: Sequence[Webhook], *, host: str, port: int, per_second: float) -> dict[str, float]:
    """Post *webhooks* evenly, whether or not earlier ones are answered; returns when each was sent (epoch seconds)."""
    idle: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    for _ in range(16):
        idle.put_nowait(_Connection(host, port))
    sent: dict[str, float] = {}

    async def one(webhook: Webhook) -> None:
        connection = await idle.get()
        sent[webhook.training_id] = time.time()  # noqa: TID251 (compared with the database's clock on this machine)
        await connection.post(webhook)
        idle.put_nowait(connection)

    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(webhooks):
            await asyncio.sleep(max(0.0, begin + number / per_second - loop.time()))
            group.create_task(one(each))
    while not idle.empty():
        idle.get_nowait().close()
    return sent
