"""
Makes the client library accept every message that the broker delivers.

The library raises on a timestamp beyond the year 9999, invalid UTF-8, unknown types and deeply nested tables. That
closes the connection, so one such message would close each connection it is delivered on, and block its queue.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import common, decode

#: Stands for all headers of a message whose headers cannot be read.
UNREADABLE_HEADER: Final = "x-unreadable-headers"

_TIMESTAMP_BYTES: Final = 8

Decode = Callable[[bytes], tuple[int, Any]]


def read_all_messages() -> None:
    """Replace the library's decoders of properties by ones that accept everything, for the whole process."""
    decode.METHODS.update(shortstr=_short_text, timestamp=_or(_no_timestamp, decode.timestamp), table=_table)


def _or(otherwise: Decode, read: Decode) -> Decode:
    def read_or(value: bytes) -> tuple[int, Any]:
        try:
            return read(value)
        except (ArithmeticError, ValueError, OSError, RecursionError):
            return otherwise(value)

    return read_or


def _no_timestamp(_: bytes) -> tuple[int, datetime]:
    return _TIMESTAMP_BYTES, datetime.fromtimestamp(0, tz=UTC)


def _short_text(value: bytes) -> tuple[int, str]:
    end = value[0] + 1
    return end, value[1:end].decode("utf-8", "replace")


def _no_table(value: bytes) -> tuple[int, dict[str, object]]:
    size: int = common.Struct.integer.unpack_from(value)[0]
    return size + 4, {UNREADABLE_HEADER: value[4 : size + 4].decode("utf-8", "replace")}


_table: Final = _or(_no_table, decode.field_table)
