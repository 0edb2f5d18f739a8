"""RabbitMQ: one connection that consumes the subscription's queue, or the log while there is no such queue. Edge."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    ProbableAuthenticationError,
)

from modelswap_events.errors import Away, Refused
from modelswap_events.ports import Next, Position
from shared.contract.brokers import in_turn

log = logging.getLogger("modelswap_events")

LOG: Final = "modelswap.events.log"
#: A subscription's queue has its name after this.
PREFIX: Final = "modelswap.subscription."
_OFFSET: Final = "x-stream-offset"
#: The beginning of RabbitMQ's reason. The library has a class for it, but keeps that to itself.
_ACCESS_REFUSED: Final = "ACCESS_REFUSED"
_HEARTBEAT_SECONDS: Final = 10
_OPEN_SECONDS: Final = 20
#: A frozen node takes connections, and never answers.
_OPEN_ONE_OF_SEVERAL_SECONDS: Final = 5
_CLOSE_SECONDS: Final = 1
#: Of the queue one at a time (see `feed`). The log counts no deliveries, and a stream is read in bulk.
_QUEUE_PREFETCH: Final = 1
_LOG_PREFETCH: Final = 200
#: Once the log has been silent so long, everything in it was read.
_SILENT_SECONDS: Final = 1.0
#: How often a reader of the log looks whether there is a queue again.
_LOOK_SECONDS: Final = 30.0


#: Set where the library works for us. Its tasks and their callbacks inherit it.
_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)


def _is_of_others(_: logging.LogRecord) -> bool:
    return not _is_ours.get()


# The library logs each lost connection with a traceback; our own line says the same. The logs of other connections
# that the program has stay as they are.
for _module in ("aiormq.connection", "aiormq.channel"):
    logging.getLogger(_module).addFilter(_is_of_others)


@contextmanager
def _quiet() -> Iterator[None]:
    token = _is_ours.set(True)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that is closed by another task ends in that task's context
            _is_ours.reset(token)


@asynccontextmanager
async def translated(what: str) -> AsyncIterator[None]:
    """
    Translate the library's errors, with *what* we do as the beginning of the message; suppress its logs.

    Raises:
        Refused, Away: instead of them.

    """
    try:
        with _quiet():
            yield
    except (AuthenticationError, ProbableAuthenticationError) as error:
        raise Refused(f"{what}: RabbitMQ refuses the user or the password") from error
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        if isinstance(error, ChannelClosed) and str(error).startswith(_ACCESS_REFUSED):
            raise Refused(f"{what}: {error}") from error
        raise Away(f"{what}: {str(error) or type(error).__name__}") from error
    except Exception as error:
        # The library raises a bare Exception in a request under way when a connection is closed without a reason.
        if type(error) is not Exception:
            raise
        raise Away(f"{what}: the connection was closed") from error
    except asyncio.CancelledError:
        # The library raises it too, in every task that waits on a connection that dies.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Away(f"{what}: the connection was lost") from None


class RabbitBroker:
    """RabbitMQ at *url*, for one subscription; of a cluster, one or more addresses separated by commas."""

    def __init__(self, url: str, subscription: str) -> None:
        self._url = url
        self._name = f"modelswap-events {subscription}"
        self._queue = f"{PREFIX}{subscription}"

    async def attach(self, position: Position) -> RabbitLink:
        """As `ports.Broker` says. Several addresses are tried in turn, from a random one on."""
        *others, last = in_turn(self._url, chance=random.random())
        for address in others:
            try:
                return await self._attach(address, position, _OPEN_ONE_OF_SEVERAL_SECONDS)
            except Away as error:
                log.info("%s; trying the next address", error)
        return await self._attach(last, position, _OPEN_SECONDS)

    async def _attach(self, url: str, position: Position, seconds: float) -> RabbitLink:
        address = urlsplit(url)
        async with translated(f"RabbitMQ at {address.hostname}:{address.port or ''}"), asyncio.timeout(seconds):
            connection = aio_pika.Connection(make_url(_beating(url)), client_properties={"connection_name": self._name})
            link = RabbitLink(connection, self._queue)
            try:
                await connection.connect()
                await link.consume(position)
            except BaseException:
                await link.close()
                raise
        return link


def _beating(url: str) -> str:
    """Return *url* with our heartbeat, unless it has one."""
    return url if "heartbeat=" in url else f"{url}{'&' if '?' in url else '?'}heartbeat={_HEARTBEAT_SECONDS}"


@dataclass(frozen=True, slots=True)
class RabbitMessage:
    """One delivery."""

    _message: AbstractIncomingMessage
    _link: RabbitLink

    @property
    def headers(self) -> Mapping[str, object]:
        return self._message.headers

    @property
    def content_type(self) -> str | None:
        return self._message.content_type

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def offset(self) -> int | None:
        offset = self._message.headers.get(_OFFSET)
        return offset if isinstance(offset, int) else None

    async def ack(self) -> None:
        with suppress(Away):
            async with translated("an ack"):
                await self._message.ack()

    async def reject(self) -> None:
        if self._link.is_log:
            await self.ack()
            return
        with suppress(Away):
            async with translated("a reject"):
                await self._message.reject()


class RabbitLink:
    """A connection that consumes the queue or the log."""

    def __init__(self, connection: AbstractConnection, queue: str, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self._connection = connection
        self._queue = queue
        self._waiting: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        self._is_lost = False
        self._look_seconds = look_seconds
        self._look_at = asyncio.get_running_loop().time() + look_seconds
        self.is_log = False
        #: Ends the consumer of the log.
        self._leave_log: Callable[[], Awaitable[object]]

    @property
    def is_open(self) -> bool:
        return not self._is_lost

    async def consume(self, position: Position) -> None:
        """Consume the queue, or the log from *position* on: as `ports.Broker.attach` says."""
        if not isinstance(position, int):
            if await self._consume_queue():
                return
            log.warning("RabbitMQ has no queue %s: reading %s instead, until there is one", self._queue, LOG)
        offset = position.value if isinstance(position, Next) else position
        self._leave_log = await self._consume(LOG, _LOG_PREFETCH, {_OFFSET: offset})
        self.is_log = True

    async def _consume_queue(self) -> bool:
        """Return False if there is no queue."""
        try:
            await self._consume(self._queue, _QUEUE_PREFETCH, {})
        except ChannelNotFoundEntity:
            return False
        return True

    async def _consume(
        self, queue: str, prefetch: int, arguments: dict[str, str | int | datetime]
    ) -> Callable[[], Awaitable[object]]:
        """Return what ends it."""
        channel = await self._connection.channel()
        underlay = await channel.get_underlay_channel()
        await channel.set_qos(prefetch_count=prefetch)
        # Before it consumes: the queue may be deleted at once.
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(f"{queue} was deleted or moved"))
        source = await channel.get_queue(queue, ensure=False)
        tag = await source.consume(self._take, arguments=dict(arguments))
        underlay.closing.add_done_callback(lambda closing: self._lose(_cause_of(closing)))
        return partial(source.cancel, tag)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._waiting.put_nowait(message)

    def _lose(self, cause: str) -> None:
        if self._is_lost:
            return
        log.warning("connecting to RabbitMQ again: %s", cause)
        self._is_lost = True
        self._waiting.put_nowait(None)

    async def next(self, seconds: float) -> RabbitMessage | None:
        """As `ports.Link` says."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.is_open and (left := end - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _SILENT_SECONDS) if self.is_log else left):
                    message = await self._waiting.get()
                    # What arrived before the link was lost is delivered again.
                    return RabbitMessage(message, self) if message and self.is_open else None
            if self.is_log and loop.time() >= self._look_at:
                self._look_at = loop.time() + self._look_seconds
                await self._look()
        return None

    async def _look(self) -> None:
        """Go on with the queue, if there is one again: everything in the log was read."""
        with suppress(Away, Refused):
            async with translated("looking for the queue"), asyncio.timeout(_OPEN_SECONDS):
                if await self._consume_queue():
                    log.warning("RabbitMQ has queue %s again", self._queue)
                    self.is_log = False
                    await self._leave_log()

    async def close(self) -> None:
        """As `ports.Link` says; waits at most a second."""
        self._is_lost = True
        try:
            with suppress(Away):
                async with translated("closing"), asyncio.timeout(_CLOSE_SECONDS):
                    await self._connection.close()
        finally:
            # At once: what did not end in time is given up. Otherwise the library closes it when its memory is freed.
            await self._connection.close()


def _cause_of(closing: asyncio.Future[object]) -> str:
    error = None if closing.cancelled() else closing.exception()
    return f"the connection was lost: {error}" if str(error or "") else "the connection was lost"
