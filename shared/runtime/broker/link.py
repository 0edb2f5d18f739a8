"""
Link: one connection with one channel.

The client library opens, closes and keeps up the connection, declares, and starts to consume. Messages and confirms are
read and written here, at a fraction of its cost (measured 2026-11).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import takewhile
from typing import Final, Self, TypeVar, cast
from uuid import uuid4

import aio_pika
import aiormq
import structlog
from pamqp.base import Frame
from pamqp.common import FieldValue
from pamqp.frame import marshal
from yarl import URL

from shared.contract.brokers import in_turn
from shared.contract.headers import OFFSET
from shared.contract.limits import FRAME_BYTES
from shared.runtime.broker.decoding import Incoming
from shared.runtime.broker.frames import publish_frames
from shared.runtime.broker.link_errors import CLOSED, LINK_ERRORS, Nacked, Returned, no_bare_exception, say
from shared.runtime.broker.message import Delivery, Outgoing
from shared.runtime.broker.transport import Transport
from shared.runtime.clock import now
from shared.runtime.waiting import is_stray_cancel

log = structlog.get_logger()

T = TypeVar("T")

#: A frozen broker is detected after about three times this.
_HEARTBEAT_SECONDS: Final = 10
_OPEN_SECONDS: Final = 10
#: Of several addresses each has less time: a frozen node takes connections, and never answers.
_OPEN_ONE_OF_SEVERAL_SECONDS: Final = 3
_CLOSE_SECONDS: Final = 1
#: Digits of a publish's number, at the end of its message id.
_NUMBER_DIGITS: Final = 12
#: How often overdue confirms are looked for.
_WATCH_SECONDS: Final = 0.1


class Link:
    """An open connection with one open channel; after any doubtful error the whole link is discarded."""

    channel: aiormq.Channel
    _connection: aio_pika.abc.AbstractConnection
    _writer: asyncio.StreamWriter

    def __init__(self) -> None:
        self._incoming = Incoming(self._on_confirm, self._on_return)
        self._loop = asyncio.get_running_loop()
        #: The largest frame that both sides accept.
        self._frame_bytes = FRAME_BYTES
        #: The newest publish. Its message id ends in it.
        self._published = 0
        self._id_prefix = uuid4().hex[:20]
        #: Unconfirmed publishes by number, and the times when they are overdue.
        self._receipts: dict[int, tuple[asyncio.Future[None], float]] = {}
        self._is_watching = False
        #: Set when the connection, the channel or the consumer on it is gone.
        self.lost = asyncio.Event()

    @classmethod
    async def open(cls, url: str, *, name: str) -> Self:
        """
        Connect to *url*; operators see the connection's *name* in RabbitMQ.

        Of several addresses, each is tried once, from a random one on.

        Raises:
            LINK_ERRORS: if it fails or times out; the last address's error.

        """
        *others, last = in_turn(url, chance=random.random())
        for address in others:
            try:
                return await cls._open(address, name, _OPEN_ONE_OF_SEVERAL_SECONDS)
            except LINK_ERRORS as error:
                log.info("broker.next_address", connection=name, detail=say(error))
        return await cls._open(last, name, _OPEN_ONE_OF_SEVERAL_SECONDS if others else _OPEN_SECONDS)

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str, *, name: str) -> AsyncIterator[Self]:
        """Open a link as `open` does, and close it at the end of the block."""
        link = await cls.open(url, name=name)
        try:
            yield link
        finally:
            await link.close()

    @classmethod
    async def _open(cls, url: str, name: str, seconds: float) -> Self:
        link = cls()
        async with asyncio.timeout(seconds):
            transport = Transport(link._incoming)
            address = URL(url).update_query(heartbeat=_HEARTBEAT_SECONDS)
            connection = aio_pika.Connection(address, client_properties={"connection_name": name})
            connection.kwargs["transport_factory"] = transport
            try:
                with no_bare_exception():
                    await connection.connect()
                    channel = await connection.channel()
                link._use(connection, cast(aiormq.Channel, await channel.get_underlay_channel()), transport.writer)
            except BaseException:
                await _close(connection)
                raise
        return link

    def _use(
        self, connection: aio_pika.abc.AbstractConnection, channel: aiormq.Channel, writer: asyncio.StreamWriter
    ) -> None:
        self._connection, self.channel, self._writer = connection, channel, writer
        self._incoming.channel = channel.number
        self._frame_bytes = min(channel.connection.connection_tune.frame_max or FRAME_BYTES, FRAME_BYTES)
        channel.closing.add_done_callback(self._on_close)
        channel.on_consumer_cancel_callbacks.add(lambda _: self.lost.set())

    async def open_channel(self) -> aiormq.Channel:
        """Open another channel, for a request whose refusal closes it."""
        with no_bare_exception():
            return cast(aiormq.Channel, await self.channel.connection.channel())

    @property
    def is_open(self) -> bool:
        return not (self.lost.is_set() or self.channel.is_closed)

    async def consume(
        self,
        queue: str,
        take: Callable[[Delivery], None],
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        offset: str | int | datetime | None = None,
    ) -> str | None:
        """
        Hand each delivery of *queue* to *take*, at most *prefetch* without an ack; return the consumer tag.

        *offset* says where to begin in a stream: ``first``, ``next``, ``last``, a number or a time.
        """
        self._incoming.deliver(queue, take)
        arguments: dict[str, FieldValue] | None = None if offset is None else {OFFSET: offset}
        with no_bare_exception():
            await self.channel.basic_qos(prefetch_count=prefetch)
            consuming = await self.channel.basic_consume(queue, _unused, no_ack=no_ack, arguments=arguments)
        return consuming.consumer_tag

    def publish(self, message: Outgoing, deadline: float) -> asyncio.Future[None]:
        """
        Write *message*, and return the future of its confirm.

        Nothing is awaited, so no other publish can come between a message's number and its frames.

        Raises:
            Unpublishable: if *message* cannot be encoded or is too large.
            ChannelInvalidStateError: if the link is closed. In both cases nothing was written.

        The future raises:
            Returned: if a mandatory message reaches no queue.
            Nacked: if the broker nacks it.
            LINK_ERRORS, CancelledError: if the link was lost before the confirm. It is given up if a confirm has not
                come by its *deadline*, by the event loop's clock.

        """
        if not self.is_open:
            raise aiormq.exceptions.ChannelInvalidStateError("the link is closed")
        number = self._published + 1
        frames = publish_frames(
            message,
            message_id=f"{self._id_prefix}{number:0{_NUMBER_DIGITS}x}",
            timestamp=int(now().timestamp()),
            channel=self.channel.number,
            frame_bytes=self._frame_bytes,
        )
        self._published = number
        if not self._is_watching:
            self._is_watching = True
            self._loop.call_later(_WATCH_SECONDS, self._watch)
        receipt = self._loop.create_future()
        self._receipts[number] = receipt, deadline
        self._writer.write(frames)
        return receipt

    def send(self, frame: Frame) -> None:
        """Write *frame*, which has no response; do nothing if the link is lost."""
        if self.is_open:
            self._writer.write(marshal(frame, self.channel.number))

    def _on_confirm(self, tag: int, multiple: bool, is_ack: bool) -> None:  # noqa: FBT001 (a callback)
        numbers = list(takewhile(tag.__ge__, self._receipts)) if multiple else [tag]
        for number in numbers:
            self._settle(number, None if is_ack else Nacked())

    def _on_return(self, message_id: str) -> None:
        self._settle(int(message_id[-_NUMBER_DIGITS:], 16), Returned())

    def _settle(self, number: int, error: BaseException | None) -> None:
        receipt, _ = self._receipts.pop(number, (None, 0.0))
        if receipt is None or receipt.done():  # returned before the confirm, or its publisher was cancelled
            return
        if error is None:
            receipt.set_result(None)
        else:
            receipt.set_exception(error)

    def _watch(self) -> None:
        """Give the link up if a confirm is overdue: the broker is frozen."""
        time = self._loop.time()
        if any(deadline < time for _, deadline in self._receipts.values()):
            self._lose(TimeoutError())
        self._is_watching = bool(self._receipts)
        if self._is_watching:
            self._loop.call_later(_WATCH_SECONDS, self._watch)

    def _on_close(self, closing: asyncio.Future[object]) -> None:
        error = asyncio.CancelledError() if closing.cancelled() else closing.exception()
        self._lose(ConnectionError(CLOSED) if error is None or type(error) is Exception else error)

    def _lose(self, error: BaseException) -> None:
        self.lost.set()
        for number in list(self._receipts):
            self._settle(number, error)

    async def close(self) -> None:
        """Close, waiting at most a second; never raises."""
        self.lost.set()
        await _close(self._connection)


async def _unused(_: object) -> None:
    """Stand for the callback of the library, which gets no delivery."""


async def _close(connection: aio_pika.abc.AbstractConnection) -> None:
    try:
        with suppress(*LINK_ERRORS), no_bare_exception():
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.close()
    except asyncio.CancelledError:
        if not is_stray_cancel():
            raise
    finally:
        # At once: what did not end in time is given up. Otherwise the library closes it when its memory is freed.
        await connection.close()
