"""Receive events as they are published, with an exclusive queue on the broker. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.cli.broker import broker_problems
from services.cli.events.heard import Heard
from services.cli.problem import Problem
from shared.runtime.broker import Delivery
from shared.runtime.broker.declare import answered
from shared.runtime.broker.link import Link
from shared.runtime.waiting import wait_for_any


@asynccontextmanager
async def subscribed(
    url: str, exchanges: Sequence[str], *, name: str = "modelswap listen"
) -> AsyncIterator[AsyncIterator[Heard]]:
    """Yield all messages that are published to *exchanges* from now on."""
    with broker_problems():
        link = await Link.open(url, name=name)
    try:
        messages: asyncio.Queue[Delivery] = asyncio.Queue()
        with broker_problems():
            async with answered("consume an exclusive queue"):
                await _consume(link, exchanges, messages)
        yield _received(link, messages)
    finally:
        await link.close()


async def _consume(link: Link, exchanges: Sequence[str], messages: asyncio.Queue[Delivery]) -> None:
    channel = link.channel
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    for exchange in exchanges:
        # As every subscriber does: it may start before the services.
        await channel.exchange_declare(exchange, exchange_type="topic", durable=True)
        await channel.queue_bind(queue, exchange, "#")
    await link.consume(queue, messages.put_nowait, no_ack=True)


async def _received(link: Link, messages: asyncio.Queue[Delivery]) -> AsyncIterator[Heard]:
    while True:
        following = asyncio.create_task(messages.get())
        try:
            await wait_for_any(following, link.lost)
            if not following.done():
                raise Problem("the connection to RabbitMQ was lost", then="run the same command again")
        finally:
            following.cancel()
        yield Heard(following.result())
