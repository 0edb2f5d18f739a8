"""`modelswap listen`: receive events as they are published, with a queue of our own; show and forward them. Edge."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.cli.broker import broker_problems
from services.cli.choices import Format
from services.cli.events.forward import Forwarder
from services.cli.events.heard import Heard, check_public, is_of, line
from services.cli.options import check_address
from services.cli.output import console, print_json_line, tell
from services.cli.problem import Problem
from shared.contract.answers import said_in
from shared.contract.events import EVENTS_EXCHANGE
from shared.runtime.broker import Delivery
from shared.runtime.broker.declare import answered
from shared.runtime.broker.link import Link
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.settings import ListenSettings
from shared.runtime.waiting import wait_for_any

_SECRET_BYTES: Final = 24


async def listen(types: Sequence[str], forward_to: str | None, output: Format) -> None:
    check_public(types)
    if forward_to is not None:
        check_address(forward_to, then="--forward-to http://HOST:PORT/PATH")
    settings = ListenSettings.load(os.environ)
    url = settings.amqp_url.get_secret_value()
    secret, told = _secret(settings)
    async with subscribed(url, [EVENTS_EXCHANGE]) as events, _forwarding(forward_to, secret) as forward:
        tell("listening; Ctrl-C ends it")
        if forward_to is not None:
            tell(f"forwarding to {forward_to}, signed with {told}")
        async for heard in events:
            if not is_of(types, heard.delivery.routing_key):
                continue
            if output is Format.JSON:
                print_json_line(heard.document())
            else:
                console().print(line(heard), soft_wrap=True)
            forward(heard)


def _secret(settings: ListenSettings) -> tuple[str, str]:
    """Return the secret that signs forwarded events, and its description: one from the settings is not shown."""
    if settings.listen_secret is not None:
        return settings.listen_secret.get_secret_value(), "MODELSWAP_LISTEN_SECRET"
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    return secret, f"{secret} (until Ctrl-C; MODELSWAP_LISTEN_SECRET sets a lasting one)"


@asynccontextmanager
async def _forwarding(url: str | None, secret: str) -> AsyncIterator[Callable[[Heard], None]]:
    """Yield the function that forwards an event to *url*; without a *url* it does nothing."""
    if url is None:
        yield lambda _: None
        return
    async with HttpClient(url) as http:

        async def post(body: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
            try:
                response = await http.request("POST", content=body, headers=headers)
            except Unanswered as error:
                return None, error.why
            return response.status_code, "" if response.is_success else said_in(response.content)

        async with Forwarder(post, secret, lambda line: tell(f"  {line}")) as forwarder:
            yield forwarder.add


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
