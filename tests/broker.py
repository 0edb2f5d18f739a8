"""A tester's hands on a real RabbitMQ: look at queues, wait for messages, die while holding one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import aiormq
from aiormq import spec

from shared.contract.topology import Topology
from shared.runtime.broker import declare, declare_log
from shared.runtime.broker.link import Link

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Message:
    body: bytes
    headers: dict[str, Any]


class Broker:
    """A broker; entered, one on which *plan* exists with nothing in it but what the events log has kept."""

    def __init__(self, url: str, plan: Topology | None = None) -> None:
        self.url = url
        self._plan = plan

    async def __aenter__(self) -> Self:
        assert self._plan is not None
        async with self.channel() as channel:
            # Purging leaves what comes back: from a delay, or from somebody whose end the queue has not heard of yet.
            for part in (self._plan.lossy, self._plan.lasting):
                for queue in reversed(part.queues):
                    await channel.queue_delete(queue.name)
                await declare(channel, part)
        async with self.link() as link:
            await declare_log(link, self._plan)
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        async with asyncio.timeout(60):
            link = await self._opened()
        try:
            yield link
        finally:
            await link.close()

    async def _opened(self) -> Link:
        """Open a link, however long a busy broker takes for it."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await Link.open(self.url, name="test")

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[aiormq.Channel]:
        async with self.link() as link:
            yield await link.open_channel()

    async def depth(self, queue: str) -> int:
        """How many messages wait in *queue*; those in somebody's hands do not count."""
        async with self.channel() as channel:
            return (await channel.queue_declare(queue, passive=True)).message_count or 0

    async def until(self, queue: str, depth: int) -> None:
        """Wait until *queue* holds just *depth* messages."""
        async with asyncio.timeout(60), self.channel() as channel:
            while (await channel.queue_declare(queue, passive=True)).message_count != depth:
                await asyncio.sleep(_POLL_SECONDS)

    async def until_consumed(self, queue: str) -> None:
        """Wait until *queue* exists and somebody consumes it."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiormq.exceptions.ChannelNotFoundEntity):
                    async with self.channel() as channel:
                        if (await channel.queue_declare(queue, passive=True)).consumer_count:
                            return
                await asyncio.sleep(_POLL_SECONDS)

    async def get(self, queue: str) -> Message:
        """Take one message that is there."""
        async with self.channel() as channel:
            return await self._get(channel, queue)

    async def wait_for(self, queue: str) -> Message:
        """Take one message as soon as it is there."""
        async with asyncio.timeout(60), self.channel() as channel:
            while True:
                with contextlib.suppress(LookupError):
                    return await self._get(channel, queue)
                await asyncio.sleep(_POLL_SECONDS)

    async def _get(self, channel: aiormq.Channel, queue: str) -> Message:
        message = await channel.basic_get(queue)
        if message.delivery_tag is None:
            raise LookupError(f"{queue} is empty")
        await channel.basic_ack(message.delivery_tag)
        return Message(message.body, dict(message.header.properties.headers or {}))

    async def take_and_die(self, queue: str) -> None:
        """Take one message and lose the connection before the ack."""
        async with asyncio.timeout(60), self.channel() as channel:
            while (await channel.basic_get(queue)).delivery_tag is None:
                if not await self.depth(queue):
                    return
                await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def subscribed(self, exchange: str, routing_key: str, **arguments: Any) -> AsyncIterator[str]:
        """A queue of one's own, with these ``x-`` *arguments*, that gets the events of *routing_key*."""
        given = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
        async with self.channel() as channel:
            name = (await channel.queue_declare("", auto_delete=False, durable=True, arguments=given)).queue or ""
            await channel.queue_bind(name, exchange, routing_key)
            try:
                yield name
            finally:
                await channel.queue_delete(name)

    async def publish_raw(self, queue: str, table: bytes) -> None:
        """Publish a message whose headers are the bytes of *table*, which the client itself would not write."""

        class Raw(spec.Basic.Properties):
            def encode_property(self, name: str, value: Any) -> bytes:
                return len(table).to_bytes(4) + table if name == "headers" else super().encode_property(name, value)

        async with self.channel() as channel:
            await channel.basic_publish(b"{}", routing_key=queue, properties=Raw(headers={"raw": True}))

    async def purge(self, queue: str) -> None:
        async with self.channel() as channel:
            await channel.queue_purge(queue)

    async def delete_queue(self, queue: str) -> None:
        async with self.channel() as channel:
            await channel.queue_delete(queue)
