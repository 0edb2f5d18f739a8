"""Receive events as they are published, with an exclusive queue on the broker. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final
from urllib.parse import quote

from pydantic import JsonValue

from services.cli.problem import Problem
from shared.contract.envelope import decode
from shared.contract.errors import Malformed
from shared.contract.events import PUBLIC_EVENTS, Event
from shared.runtime.broker import Delivery
from shared.runtime.broker.declare import answered
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, is_refused, say

_PUBLIC: Final = frozenset(event.key for event in PUBLIC_EVENTS)
#: Characters that the HTTP binding of CloudEvents does not quote: printable ASCII without space, " and %.
_HEADER_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


@dataclass(frozen=True)
class Heard:
    """One message as it was received."""

    delivery: Delivery

    @cached_property
    def attributes(self) -> Mapping[str, str]:
        """The CloudEvents attributes, by their names without ``ce-``."""
        return {name[3:]: str(value) for name, value in self.delivery.headers.items() if name.startswith("ce-")}

    @cached_property
    def event(self) -> Event | None:
        """The decoded event; None if this version cannot decode it."""
        try:
            return decode(self.delivery.headers, self.delivery.content_type, self.delivery.body).event
        except Malformed:
            return None

    def http_headers(self) -> dict[str, str]:
        """Return the attributes as headers of CloudEvents' binary mode over HTTP."""
        headers = {f"ce-{name}": quote(value, safe=_HEADER_SAFE) for name, value in self.attributes.items()}
        return {**headers, "content-type": "application/json"}

    def document(self) -> dict[str, JsonValue]:
        """Return the whole as one JSON object: CloudEvents' structured mode."""
        return {**self.attributes, "datacontenttype": "application/json", "data": _json(self.delivery.body)}


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


@contextmanager
def broker_problems() -> Iterator[None]:
    """Translate the AMQP library's errors to problems."""
    try:
        yield
    except LINK_ERRORS as error:
        then = "check the user in MODELSWAP_AMQP_URL" if is_refused(error) else "modelswap doctor"
        raise Problem(say(error), then=then) from error


async def _consume(link: Link, exchanges: Sequence[str], messages: asyncio.Queue[Delivery]) -> None:
    channel = link.channel
    queue = (await channel.queue_declare(exclusive=True)).queue or ""
    for exchange in exchanges:
        # As every subscriber does: it may start before the services.
        await channel.exchange_declare(exchange, exchange_type="topic", durable=True)
        await channel.queue_bind(queue, exchange, "#")

    await link.consume(queue, messages.put_nowait, no_ack=True)


async def _received(link: Link, messages: asyncio.Queue[Delivery]) -> AsyncIterator[Heard]:
    """Yield what *link* puts into *messages*; a lost connection is a problem."""
    lost = asyncio.create_task(link.lost.wait())
    following: asyncio.Task[Delivery] | None = None
    try:
        while True:
            following = asyncio.create_task(messages.get())
            await asyncio.wait((following, lost), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise Problem("the connection to RabbitMQ was lost", then="run the same command again")
            yield Heard(following.result())
    finally:
        lost.cancel()
        if following is not None:
            following.cancel()


def _json(body: bytes) -> JsonValue:
    try:
        data: JsonValue = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return data


def is_of(types: Sequence[str], routing_key: str) -> bool:
    """Return whether an event is of one of *types*, or they are none; ``model.activated`` means every version of it."""
    names = (routing_key, routing_key.rpartition(".")[0])
    return not types or any(fnmatchcase(name, kind.replace("#", "*")) for name in names for kind in types)


def check_public(types: Sequence[str], *, option: str = "") -> None:
    """Refuse a name that is no public event's; *option* is how another one is given."""
    for kind in types:
        if not any(is_of([kind], key) for key in _PUBLIC):
            names = ", ".join(sorted(key.rpartition(".")[0] for key in _PUBLIC))
            raise Problem(f"no public event is called {kind!r}", then=f"{option}one of {names}")
