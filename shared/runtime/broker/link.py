"""Link: one connection with one channel, and the meaning of the library's errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from itertools import count
from typing import Final, Self, TypeVar, cast
from uuid import uuid4

import aio_pika
import aiormq
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from pamqp.base import Frame
from pamqp.frame import marshal
from yarl import URL

from shared.contract.errors import DependencyDown
from shared.contract.limits import FRAME_BYTES
from shared.runtime.broker.decoding import read_all_messages
from shared.runtime.broker.frames import publish_frames
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.transport import JoinedWrites
from shared.runtime.clock import now

T = TypeVar("T")
#: A message as the library hands it over.
Received = aiormq.abc.DeliveredMessage

#: Errors of a lost connection. A frozen broker causes TimeoutError; see also `is_stray_cancel`.
LINK_ERRORS: Final = (*CONNECTION_EXCEPTIONS, TimeoutError)

#: The broker closed the channel or the connection because of a published message.
CONTENT_ERRORS: Final = (
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ConnectionFrameError,
    aiormq.exceptions.ConnectionSyntaxError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
    aiormq.exceptions.ConnectionNotImplemented,
)

#: A frozen broker is detected after about three times this.
_HEARTBEAT_SECONDS: Final = 10
_OPEN_SECONDS: Final = 10
_CLOSE_SECONDS: Final = 1


def is_stray_cancel() -> bool:
    """
    Return whether the CancelledError just caught is a connection error, not a cancellation of this task.

    The AMQP library raises it in every task that waits on a connection that dies.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() == 0


async def without_stray_cancel(work: Awaitable[T]) -> T:
    """
    Do *work*; a cancellation that does not come from us is a lost connection.

    Raises:
        DependencyDown: instead of such a cancellation.

    """
    try:
        return await work
    except asyncio.CancelledError as error:
        if not is_stray_cancel():
            raise
        raise DependencyDown("a connection was lost in the middle of the work") from error


class Link:
    """An open connection with one open channel; after any doubtful error the whole link is discarded."""

    def __init__(
        self, connection: aio_pika.abc.AbstractConnection, channel: aiormq.Channel, writer: asyncio.StreamWriter
    ) -> None:
        self._connection = connection
        self.channel = channel
        self._writer = writer
        self._message_ids = map(f"{uuid4().hex[:20]}{{:012x}}".format, count())
        #: The largest frame that both sides accept.
        self._frame_bytes = min(channel.connection.connection_tune.frame_max or FRAME_BYTES, FRAME_BYTES)
        #: Set when the connection, the channel or a consumer on it is gone.
        self.lost = asyncio.Event()
        connection.close_callbacks.add(self._on_close)
        channel.closing.add_done_callback(lambda _: self.lost.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: self.lost.set())

    @classmethod
    async def open(cls, url: str, *, name: str) -> Self:
        """
        Connect to *url*; operators see the connection's *name* in RabbitMQ.

        Raises:
            LINK_ERRORS: if it fails or times out.

        """
        read_all_messages()
        async with asyncio.timeout(_OPEN_SECONDS):
            address = URL(url).update_query(heartbeat=_HEARTBEAT_SECONDS)
            connection = aio_pika.Connection(address, client_properties={"connection_name": name})
            transport = connection.kwargs["transport_factory"] = JoinedWrites()
            try:
                await connection.connect()
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                # The lower channel: it publishes and acks without a drain of the socket for each.
                return cls(connection, cast(aiormq.Channel, await channel.get_underlay_channel()), transport.writer)
            except BaseException:
                await _close(connection)
                raise

    def _on_close(self, *_: object) -> None:
        self.lost.set()

    async def open_channel(self) -> aiormq.Channel:
        """Open another channel, for a request whose refusal closes it."""
        return cast(aiormq.Channel, await self.channel.connection.channel())

    @property
    def is_open(self) -> bool:
        return not (self.lost.is_set() or self.channel.is_closed)

    def publish(self, message: Outgoing) -> asyncio.Future[object]:
        """
        Write *message*, and return the future of its confirm.

        The library's own `basic_publish` does the same at several times the cost: two deadlines, a lock and a socket
        write per message (measured 2026-11). Here nothing is awaited, so no other publish can come between a message's
        delivery tag and its frames.

        Raises:
            Unpublishable: if *message* cannot be encoded or is too large.
            ChannelInvalidStateError: if the link is closed. In both cases nothing was written.

        The future raises:
            PublishError: if a mandatory message reaches no queue.
            DeliveryError: if the broker nacks it.
            LINK_ERRORS, CancelledError: if the link was lost before the confirm.

        """
        channel = self.channel
        if not self.is_open:
            raise aiormq.exceptions.ChannelInvalidStateError("the link is closed")
        # A new id per attempt: with equal ids in flight the library mixes up their confirms.
        message_id = next(self._message_ids)
        frames = publish_frames(
            message,
            message_id=message_id,
            timestamp=int(now().timestamp()),
            channel=channel.number,
            frame_bytes=self._frame_bytes,
        )
        receipt = channel.create_future()
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = receipt
        channel.message_id_delivery_tag[message_id] = channel.delivery_tag
        receipt.add_done_callback(lambda _: channel.message_id_delivery_tag.pop(message_id, None))
        self._writer.write(frames)
        return receipt

    def send(self, frame: Frame) -> None:
        """Write *frame*, which has no response; do nothing if the link is lost."""
        if self.is_open:
            self._writer.write(marshal(frame, self.channel.number))

    async def close(self) -> None:
        """Close, waiting at most a second; never raises."""
        self.lost.set()
        await _close(self._connection)


async def _close(connection: aio_pika.abc.AbstractConnection) -> None:
    try:
        with suppress(*LINK_ERRORS):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.close()
    except asyncio.CancelledError:
        if not is_stray_cancel():
            raise


def is_refused(error: BaseException) -> bool:
    """Return whether the broker refused us (credentials, permissions), so that retrying does not help."""
    refusals = (
        aiormq.exceptions.ProbableAuthenticationError,
        aiormq.exceptions.AuthenticationError,
        aiormq.exceptions.ChannelAccessRefused,
        aiormq.exceptions.ConnectionNotAllowed,
    )
    return isinstance(error, refusals)


def say(error: BaseException) -> str:
    """Describe a connection's *error* in a sentence for operators."""
    if is_refused(error):
        return f"RabbitMQ refuses us: {error}"
    said = str(error) or type(error).__name__
    return said if said.startswith("RabbitMQ") else f"RabbitMQ does not answer: {said}"
