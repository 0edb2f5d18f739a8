"""Declares the topology on the broker, and reports differences from it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

import aiormq

from shared.contract.errors import PermanentError
from shared.contract.queues import PLACEMENT, Queue
from shared.contract.topology import Exchange, Topology
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import no_bare_exception

_ANSWER_SECONDS: Final = 10
#: What RabbitMQ 3.10 and 4 say of the first argument that differs.
_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'.* but current is (?:none|(?:the value )?'(?P<found>[^']*)')", re.DOTALL
)


class TopologyMismatch(PermanentError):
    """An exchange or queue exists with other arguments than ours, which cannot be changed in place."""

    code = "topology_mismatch"


class BrokerSilent(TimeoutError):
    """The broker is up, but did not answer a request in time."""


@asynccontextmanager
async def answered(request: str) -> AsyncIterator[None]:
    """
    Limit a request to the broker to ten seconds: it can take minutes while a node is down.

    Raises:
        BrokerSilent: if it takes longer.
        LINK_ERRORS: if the connection is lost.

    """
    try:
        with no_bare_exception():
            async with asyncio.timeout(_ANSWER_SECONDS):
                yield
    except TimeoutError as error:
        raise BrokerSilent(
            f"RabbitMQ did not answer within {_ANSWER_SECONDS} s to: {request}. In a cluster the node that holds it "
            "may be down"
        ) from error


async def declare(channel: aiormq.Channel, topology: Topology) -> None:
    """
    Declare everything in *topology*; existing exchanges and queues stay unchanged.

    Raises:
        TopologyMismatch: if one exists with other arguments.
        BrokerSilent: if the broker does not answer.

    """
    name = ""
    trials = _Trials(channel)
    try:
        for exchange in topology.exchanges:
            name = f"exchange {exchange.name}"
            async with answered(f"declare {name}"):
                await _declare_exchange(exchange, channel)
        for queue in topology.queues:
            name = f"queue {queue.name}"
            async with answered(f"declare {name}"):
                await _declare_queue(queue, trials)
        for binding in topology.bindings:
            async with answered(f"bind queue {binding.queue}"):
                await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
        await trials.close()
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise TopologyMismatch(
            f"{name} exists on the broker with other arguments than ours: {error}. "
            "Drain and delete it, then run `modelswap topology apply`"
        ) from error


async def diff(url: str, topology: Topology) -> list[str]:
    """Return a line for each exchange or queue that is missing or differs from *topology*."""
    checks: dict[str, _Check] = {
        **{f"exchange {exchange.name}": partial(_find_exchange, exchange) for exchange in topology.exchanges},
        **{f"queue {queue.name}": partial(_find_queue, queue) for queue in topology.queues},
    }
    async with Link.opened(url, name="modelswap topology diff") as link:
        found = {name: await _objection(link, check) for name, check in checks.items()}
    return [f"{name}: {objection}" for name, objection in found.items() if objection]


class Depth(NamedTuple):
    """The number of waiting messages and of consumers of a queue."""

    waiting: int
    consumers: int


async def depths(url: str, queues: Iterable[str], *, name: str) -> dict[str, Depth]:
    """Return the depth of each queue; a missing one counts as empty. *name* is the connection's, in RabbitMQ."""
    async with Link.opened(url, name=name) as link:
        return {queue: await _depth(link, queue) for queue in queues}


async def _depth(link: Link, name: str) -> Depth:
    try:
        async with answered(f"look at queue {name}"):
            # The broker closes the channel if the queue is missing, so each request has its own.
            declared = await (await link.open_channel()).queue_declare(name, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return Depth(0, 0)
    return Depth(declared.message_count or 0, declared.consumer_count or 0)


_Check = Callable[[aiormq.Channel], Awaitable[None]]


async def _objection(link: Link, check: _Check) -> str | None:
    """Return the broker's objection, or None. A refusal closes the channel, so each request has its own."""
    try:
        async with answered("look it up"):
            await check(await link.open_channel())
    except BrokerSilent as error:
        return f"unknown: {error}"
    except aiormq.exceptions.ChannelNotFoundEntity as error:
        # RabbitMQ 3.10 answers so for a queue whose node is down.
        return f"unavailable: {error}" if "is down" in str(error) else "missing"
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        return f"differs: {error}"
    return None


async def _find_exchange(exchange: Exchange, channel: aiormq.Channel) -> None:
    await channel.exchange_declare(exchange.name, passive=True)
    await _declare_exchange(exchange, channel)  # it exists, so this only compares


async def _find_queue(queue: Queue, channel: aiormq.Channel) -> None:
    await channel.queue_declare(queue.name, passive=True)
    await _declare_queue(queue, _Trials(channel))  # it exists, so this only compares


async def _declare_exchange(exchange: Exchange, channel: aiormq.Channel) -> None:
    await channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True)


class _Trials:
    """A channel beside another one, for declares of queues: a refusal closes it, and then the next one is opened."""

    def __init__(self, beside: aiormq.Channel) -> None:
        self._connection = beside.connection
        self._channel: aiormq.abc.AbstractChannel | None = None

    async def open(self) -> aiormq.abc.AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel()
        return self._channel

    async def close(self) -> None:
        if self._channel is not None and not self._channel.is_closed:
            await self._channel.close()


async def _declare_queue(queue: Queue, trials: _Trials) -> None:
    """Declare *queue*; one that exists may be placed otherwise in the cluster."""
    arguments = {**queue.arguments, **queue.placement}
    uncompared = set(PLACEMENT)
    while True:
        trial = await trials.open()
        try:
            await trial.queue_declare(queue.name, durable=True, arguments=dict(arguments))
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            differs = _INEQUIVALENT.search(str(error))
            if differs is None or differs["argument"] not in uncompared:
                raise
            uncompared.remove(differs["argument"])
            arguments = _with_found(arguments, differs["argument"], differs["found"])
        else:
            return


def _with_found(arguments: Mapping[str, str | int], name: str, found: str | None) -> dict[str, str | int]:
    """Return *arguments* with the value of *name* that RabbitMQ *found* in an existing queue, or without it."""
    others = {each: value for each, value in arguments.items() if each != name}
    return others if found is None else others | {name: int(found) if found.isdecimal() else found}
