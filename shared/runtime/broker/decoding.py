"""
Decodes what the broker sends about messages: deliveries, confirms and returned messages. Pure.

The client library makes objects of each frame and a task of each delivery, which took a quarter of a consumer's CPU
(measured 2026-11). And it closes the connection on a timestamp beyond the year 9999, invalid UTF-8, unknown types and
deeply nested tables: one such message would close each connection that it is delivered on, and block its queue. Here
every message is accepted. All other frames are left to the library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from aiormq import spec
from pamqp import decode

from shared.contract.headers import OFFSET
from shared.runtime.broker.message import Delivery

#: Stands for all headers of a message whose headers cannot be read.
UNREADABLE_HEADER: Final = "x-unreadable-headers"

_METHOD, _HEADER, _HEARTBEAT = 1, 2, 8
_END: Final = 0xCE
_LONG_STRING: Final = ord("S")
#: Bytes of a value by its type; one of another type begins with its size.
_VALUE_BYTES: Final = {
    **dict.fromkeys(b"V", 0),
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"su", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"D", 5),
    **dict.fromkeys(b"ldT", 8),
}

_FRAME_START: Final = struct.Struct(">BHI")  # type, channel, size
_SETTLED: Final = struct.Struct(">IQB")  # method, delivery tag, bits
_LONG: Final = struct.Struct(">I")
_LONG_LONG: Final = struct.Struct(">Q")

_DELIVER, _RETURN, _ACK, _NACK = (
    _LONG.pack(method.index) for method in (spec.Basic.Deliver, spec.Basic.Return, spec.Basic.Ack, spec.Basic.Nack)
)
_FLAGS: Final = spec.Basic.Properties.flags

_DECODING_ERRORS: Final = (ArithmeticError, IndexError, OSError, RecursionError, ValueError, struct.error)

#: Gets a delivery tag, whether all smaller ones are meant too, and whether it is an ack.
OnConfirm = Callable[[int, bool, bool], None]


class Incoming:
    """Splits received bytes into frames, and takes the messages and confirms of one channel out of them."""

    def __init__(self, on_confirm: OnConfirm, on_return: Callable[[str], None]) -> None:
        self._on_confirm = on_confirm
        #: Gets the message id of a message that reached no queue.
        self._on_return = on_return
        self._on_delivery: Callable[[Delivery], None] | None = None
        #: The queue of the deliveries.
        self._queue = ""
        #: The number of the channel; others, and all while it is None, are the library's own.
        self.channel: int | None = None
        self._rest = b""
        #: The message that is arriving: its method (empty if there is none), its header, and the parts of its body.
        self._method = b""
        self._header = b""
        self._body: list[bytes] = []
        self._missing_bytes = 0

    def deliver(self, queue: str, on_delivery: Callable[[Delivery], None]) -> None:
        """Hand each delivery of *queue* to *on_delivery*."""
        self._queue, self._on_delivery = queue, on_delivery

    def feed(self, data: bytes) -> bytes:
        """Take received *data*; return the frames that are for the client library."""
        data = self._rest + data if self._rest else data
        others, start, length = [], 0, len(data)
        while start + _FRAME_START.size <= length:
            kind, channel, size = _FRAME_START.unpack_from(data, start)
            payload = start + _FRAME_START.size
            end = payload + size
            if kind > _HEARTBEAT or (end < length and data[end] != _END):
                others.append(data[start:])  # not AMQP: the library closes the connection
                start = length
                break
            if end >= length:
                break
            if channel != self.channel or not self._take(kind, data[payload:end]):
                others.append(data[start : end + 1])
            start = end + 1
        self._rest = data[start:]
        return b"".join(others)

    def _take(self, kind: int, payload: bytes) -> bool:
        """Take a frame of the watched channel; return False if it is for the client library."""
        if kind == _METHOD:
            method = payload[:4]
            if method in (_ACK, _NACK):
                _, tag, bits = _SETTLED.unpack_from(payload)
                self._on_confirm(tag, bits & 1 > 0, method == _ACK)
                return True
            self._method = payload if method in (_DELIVER, _RETURN) else b""
            return bool(self._method)
        if not self._method:
            return False
        if kind == _HEADER:
            self._header, self._body = payload, []
            (self._missing_bytes,) = _LONG_LONG.unpack_from(payload, 4)
        else:
            self._body.append(payload)
            self._missing_bytes -= len(payload)
        if self._missing_bytes <= 0:
            self._finish()
        return True

    def _finish(self) -> None:
        method, self._method = self._method, b""
        content_type, headers, message_id, published_at = _properties(self._header)
        if method.startswith(_RETURN):
            self._on_return(message_id)
        elif self._on_delivery is not None:
            at = 5 + method[4]  # behind the consumer tag
            (tag,) = _LONG_LONG.unpack_from(method, at)
            exchange, at = _short(method, at + 9)
            routing_key, _ = _short(method, at)
            body = b"".join(self._body)
            self._on_delivery(
                Delivery(self._queue, tag, exchange, routing_key, headers, content_type, body, published_at)
            )


def _properties(header: bytes) -> tuple[str | None, dict[str, object], str, datetime | None]:
    """Read the payload of a content header frame: content type, headers, message id and timestamp."""
    flags, at = int.from_bytes(header[12:14]), 14
    content_type, headers, message_id, timestamp = None, {}, "", None
    # Of our own messages all can be read; of others, what comes before the first property that can not.
    with suppress(*_DECODING_ERRORS):
        if flags & _FLAGS["content_type"]:
            content_type, at = _short(header, at)
        if flags & _FLAGS["content_encoding"]:
            at += 1 + header[at]
        if flags & _FLAGS["headers"]:
            end = at + 4 + _LONG.unpack_from(header, at)[0]
            headers, at = _table(header[at:end]), end
        at += bool(flags & _FLAGS["delivery_mode"]) + bool(flags & _FLAGS["priority"])
        for name in ("correlation_id", "reply_to", "expiration"):
            if flags & _FLAGS[name]:
                at += 1 + header[at]
        if flags & _FLAGS["message_id"]:
            message_id, at = _short(header, at)
        if flags & _FLAGS["timestamp"]:
            timestamp = datetime.fromtimestamp(_LONG_LONG.unpack_from(header, at)[0], tz=UTC)
    return content_type, headers, message_id, timestamp


def _table(raw: bytes) -> dict[str, object]:
    try:
        return _read_table(raw)
    except _DECODING_ERRORS:
        return {UNREADABLE_HEADER: raw[4:].decode("utf-8", "replace"), **_place(raw)}


def _place(raw: bytes) -> dict[str, object]:
    """Return the place of a message in a stream, as RabbitMQ added it to a table that cannot be read as a whole."""
    name, at = OFFSET.encode(), 4
    with suppress(*_DECODING_ERRORS):
        while at < len(raw):
            start = at + 1 + raw[at]
            if raw[at + 1 : start] == name:
                return {OFFSET: _value(raw, start)[0]}
            size = _VALUE_BYTES.get(raw[start])
            at = start + 1 + (4 + _LONG.unpack_from(raw, start + 1)[0] if size is None else size)
    return {}


def _read_table(raw: bytes) -> dict[str, object]:
    headers: dict[str, object] = {}
    at = 4
    while at < len(raw):
        start = at + 1 + raw[at]
        name = raw[at + 1 : start].decode()
        headers[name], at = _value(raw, start)
    return headers


def _value(raw: bytes, start: int) -> tuple[object, int]:
    if raw[start] == _LONG_STRING:  # nearly all are: spare the library's chain of calls
        end = start + 5 + _LONG.unpack_from(raw, start + 1)[0]
        text = raw[start + 5 : end]
        if text.isascii():
            return text.decode(), end
    size, value = decode.embedded_value(raw[start:])
    return value, start + size


def _short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end
