"""
Has the broker got it? Publishes with confirm, and says one of three things about each message.

    returns                 confirmed: it is on disk in a queue
    Unroutable              no queue takes it: the topology is broken
    Unconfirmed             refused (a queue is full, or its node is down), or *unknown*: it may be there or not.
                            Publish it again: its event has the same id

The message goes through the library's lower channel, without waiting for the socket to drain: that halves the client's
share of the work (measured 2026-11). How many are on their way at once is bounded here instead.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Self
from uuid import uuid4

import aiormq
import structlog
from aiormq import spec

from shared.contract.errors import DependencyDown
from shared.contract.topology import DEAD_EXCHANGE, Topology
from shared.runtime.broker.declare import declare
from shared.runtime.broker.link import LINK_ERRORS, Link, is_stray_cancel, say
from shared.runtime.broker.message import Outgoing

log = structlog.get_logger()

_PERSISTENT: Final = 2
_IN_FLIGHT: Final = 512


class Unconfirmed(DependencyDown):
    """The broker did not confirm in time, or refused. The message may be there or not."""

    code = "broker_unconfirmed"


class Unroutable(DependencyDown):
    """No queue takes this message: a binding or a queue is missing."""

    code = "broker_unroutable"


class Publisher:
    """Publishes over one connection of its own, opened when needed and replaced when in doubt."""

    def __init__(self, url: str, *, name: str, topology: Topology | None = None, timeout_seconds: float = 5.0) -> None:
        """
        Prepare to publish under the *name* that operators see.

        With a *topology*, this process may make it exist, but for lossy queues: on every new connection, and where a
        message found no queue.
        """
        self._url = url
        self._topology = topology
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._link: Link | None = None
        self._is_declared = False
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            self._discard(self._link)
        await asyncio.gather(*self._closing)

    async def connect(self) -> None:
        """
        Open the connection now rather than at the first publish.

        Raises:
            Unconfirmed: if the broker does not answer.
            TopologyMismatch: if it holds a queue with other arguments than ours.

        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._open()
        except LINK_ERRORS as error:
            raise Unconfirmed(say(error)) from error

    async def publish(self, message: Outgoing) -> None:
        """
        Publish *message* and wait for the broker's receipt.

        Raises:
            Unconfirmed: if there is none; publish again.
            Unroutable: if no queue takes the message.

        """
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds), self._slots:
                link = await self._open()
                await link.channel.basic_publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    properties=_properties(message),
                    mandatory=message.mandatory,
                    wait=False,
                )
        except aiormq.exceptions.PublishError as error:
            self._is_declared = False  # the next publish declares what is missing; the others on this link go on
            raise Unroutable(f"{message.routing_key} reached no queue of exchange {message.exchange!r}") from error
        except aiormq.exceptions.DeliveryError as error:
            raise Unconfirmed(
                f"a queue of {message.routing_key} is full, or its node is down: the broker refused"
            ) from error
        except asyncio.CancelledError as error:
            if not is_stray_cancel():
                raise
            self._discard(link)
            raise Unconfirmed("the connection to RabbitMQ was lost before the receipt") from error
        except LINK_ERRORS as error:
            self._discard(link)
            raise Unconfirmed(f"no receipt: {say(error)}") from error
        except Exception as error:
            # The library has no word for it: another publish gave this link up while this one waited for its receipt.
            if link is None or link.is_open:
                raise
            raise Unconfirmed("the connection to RabbitMQ was given up before the receipt") from error

    async def probe(self) -> None:
        """
        Ask whether the broker takes messages at all, with one that no queue gets.

        Raises:
            Unconfirmed: if it does not.

        """
        with suppress(Unroutable):
            await self.publish(Outgoing(DEAD_EXCHANGE, "modelswap.nobody", b""))

    async def _open(self) -> Link:
        if self._link is not None and self._link.is_open and self._is_declared:
            return self._link
        async with self._opening:
            if self._link is None or not self._link.is_open:
                self._discard(self._link)
                self._link, self._is_declared = await Link.open(self._url, name=self._name), False
            link = self._link
            if not self._is_declared:
                try:
                    if self._topology is not None:
                        await declare(link.channel, self._topology.lasting)
                except BaseException:
                    self._discard(link)
                    raise
                self._is_declared = True
            return link

    def _discard(self, link: Link | None) -> None:
        """Never trust this link again; closing it must not hold anybody up."""
        if link is None:
            return
        if self._link is link:
            self._link = None
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _properties(message: Outgoing) -> spec.Basic.Properties:
    return spec.Basic.Properties(
        # Fresh for each attempt: with equal ids in flight the library mixes up their receipts.
        message_id=uuid4().hex,
        delivery_mode=_PERSISTENT,
        content_type=message.content_type,
        message_type=message.message_type,
        correlation_id=message.correlation_id,
        timestamp=datetime.now(UTC),  # noqa: TID251 (for those who look at the broker)
        headers=dict(message.headers),
    )
