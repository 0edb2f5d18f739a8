"""
Publisher: each publish waits for the broker's confirm, and has one of four outcomes.

    returns                 confirmed: it is on disk in a queue
    Unroutable              it reached no queue: the topology is incomplete
    Unconfirmed             nacked (a queue is full, or its node is down), or *unknown*: it may be in the queue or not.
                            Publish it again: its event has the same id
    Unpublishable           it can never be published: too large, not encodable, or refused for its content

Messages are written by `Link.publish`, which does not wait for the socket: callers bound the number in flight.

A broker that refuses a message's content closes the channel or the connection, so all other publishes on it fail too.
Then each of them is published once more, one at a time on a separate connection: the message that fails there again is
the one that was refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Self

import aiormq
import structlog

from shared.contract.errors import DependencyDown
from shared.contract.headers import in_trace
from shared.contract.limits import Unpublishable
from shared.contract.topology import Topology
from shared.runtime.broker.declare import declare
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import CONTENT_ERRORS, LINK_ERRORS, Nacked, Returned, say
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.spans import publishing
from shared.runtime.waiting import is_stray_cancel

log = structlog.get_logger()


class Unconfirmed(DependencyDown):
    """The broker nacked the message, or did not confirm it in time: it may be in the queue or not."""

    code = "broker_unconfirmed"


class Unroutable(DependencyDown):
    """The message reached no queue: a binding or a queue is missing."""

    code = "broker_unroutable"


class _Objection(Exception):
    """The broker closed the link because of this message, or of another one on it."""


class _Unsent(Exception):
    """The link was closed before anything of this message was written."""


class Publisher:
    """Publishes on its own connections, opened when needed and replaced after an error."""

    def __init__(self, url: str, *, name: str, topology: Topology | None = None, timeout_seconds: float = 5.0) -> None:
        """
        Prepare to publish; operators see the connection's *name* in RabbitMQ.

        A *topology* is declared, without its lossy queues, on every new connection and after a message reached no
        queue.
        """
        self._shared = _Line(url, name, topology, timeout_seconds)
        self._single = _Line(url, f"{name}, one at a time", None, timeout_seconds)
        self._turn = asyncio.Lock()
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(self._shared.close(), self._single.close())

    async def connect(self) -> None:
        """
        Open the connection now rather than at the first publish.

        Raises:
            Unconfirmed: if the broker does not answer.
            TopologyMismatch: if it holds a queue with other arguments than ours.

        """
        await self._shared.connect()

    async def publish(self, message: Outgoing) -> None:
        """
        Publish *message* and wait for the broker's confirm.

        Raises:
            Unconfirmed: if there is none; publish again.
            Unroutable: if the message reached no queue.
            Unpublishable: if the message can never be published.

        """
        with publishing(message) as span:
            if span.context:
                message = replace(message, headers=in_trace(message.headers, span.context))
            await self._publish(message)

    async def _publish(self, message: Outgoing) -> None:
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            try:
                await self._shared.publish(message, deadline)
            except _Unsent:
                await self._shared.publish(message, deadline)
        except _Objection:
            await self._publish_alone(message)
        except _Unsent as error:
            raise Unconfirmed("the connection to RabbitMQ was lost twice before the message was written") from error

    async def _publish_alone(self, message: Outgoing) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout_seconds
        try:
            async with self._turn:
                if clock() > deadline:
                    raise Unconfirmed("RabbitMQ does not answer: other messages were first")
                await self._single.publish(message, deadline)
        except _Unsent as error:
            raise Unconfirmed("the connection to RabbitMQ was lost before the message was written") from error
        except _Objection as objection:
            raise Unpublishable(
                f"RabbitMQ refuses a message to {message.exchange or 'queue'} {message.routing_key}: {objection}",
                code="message_refused",
            ) from objection.__cause__


class _Line:
    """One link at a time, with its messages in flight."""

    def __init__(self, url: str, name: str, topology: Topology | None, timeout_seconds: float) -> None:
        self._url = url
        self._topology = topology
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._link: Link | None = None
        self._is_declared = False
        self._opening: asyncio.Task[Link] | None = None
        #: How many wait for it.
        self._waiting = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close all links."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._link is not None:
            self._discard(self._link)
        await asyncio.gather(*self._closing)

    async def connect(self) -> None:
        """Open the link, as `Publisher.connect` says."""
        try:
            await self._opened(asyncio.get_running_loop().time() + self._timeout_seconds)
        except LINK_ERRORS as error:
            raise Unconfirmed(say(error)) from error

    async def publish(self, message: Outgoing, deadline: float) -> None:
        """
        Publish *message* by *deadline*, as `Publisher.publish` says.

        Raises:
            _Objection: if the broker closed the link because of what was published on it.
            _Unsent: if the link was closed before anything was written.

        """
        link: Link | None = None
        try:
            link = self._ready()
            if link is None:
                link = await self._opened(deadline)
            await link.publish(message, deadline)
        except Returned as error:
            self._is_declared = False  # the next publish declares what is missing; the others on this link go on
            raise Unroutable(f"{message.routing_key} reached no queue of exchange {message.exchange!r}") from error
        except Nacked as error:
            raise Unconfirmed(
                f"a queue of {message.routing_key} is full, or its node is down: the broker refused"
            ) from error
        except asyncio.CancelledError as error:
            if not is_stray_cancel():
                raise
            self._discard(link)
            raise Unconfirmed("the connection to RabbitMQ was lost before the receipt") from error
        except LINK_ERRORS as error:
            raise self._give_up(link, error) from error
        except Exception as error:
            if link is not None and not link.is_open and not isinstance(error, Unpublishable):
                # The library raises an arbitrary error if another publish discarded the link meanwhile.
                raise Unconfirmed("the connection to RabbitMQ was given up before the receipt") from error
            raise

    def _ready(self) -> Link | None:
        return self._link if self._link is not None and self._link.is_open and self._is_declared else None

    async def _opened(self, deadline: float) -> Link:
        """Wait for the open link until *deadline*. Opening belongs to no message: it goes on when all have given up."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._note_failure)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._opening)
        except asyncio.CancelledError as error:
            if not is_stray_cancel():
                raise
            raise ConnectionError("the connection to RabbitMQ was lost while it was opened") from error
        finally:
            self._waiting -= 1

    def _note_failure(self, opening: asyncio.Task[Link]) -> None:
        """Log why *opening* failed, if no message is there to say so."""
        error = None if opening.cancelled() else opening.exception()
        if error is not None and not self._waiting:
            log.warning(
                "publisher.not_opened",
                connection=self._name,
                detail=say(error) if isinstance(error, LINK_ERRORS) else str(error),
            )

    async def _open(self) -> Link:
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

    def _give_up(self, link: Link | None, error: Exception) -> Exception:
        """Discard *link*; return the outcome of *error* for a message published on it."""
        is_objection = link is not None and isinstance(error, CONTENT_ERRORS)
        if is_objection and link is self._link:  # once for all that were on it
            log.info("publisher.link_closed", connection=self._name, detail=str(error))
        self._discard(link)
        if is_objection:
            return _Objection(str(error))
        if isinstance(error, aiormq.exceptions.ChannelInvalidStateError):
            return _Unsent(str(error))
        return Unconfirmed(f"no receipt: {say(error)}")

    def _discard(self, link: Link | None) -> None:
        """Stop using *link*, and close it in the background, unless another message has done so."""
        if link is None or link is not self._link:
            return
        self._link = None
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
