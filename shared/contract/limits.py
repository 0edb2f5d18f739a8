"""
Size limits of messages, and the headers that are copied from one message to the next. Pure.

A message whose properties and headers do not fit into one AMQP frame, or whose body is larger than the broker allows,
makes the broker close the connection or channel, and with it every other publish on it. So values from outside are
bounded where they enter, and every message is measured before it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.contract.dead import BROKERS_OWN, RETRY_HEADERS
from shared.contract.errors import PermanentError
from shared.contract.trace import TRACE_HEADERS

#: AMQP frame size that RabbitMQ and its clients negotiate by default.
FRAME_BYTES: Final = 128 * 1024
#: A frame's own header and end.
FRAME_OVERHEAD_BYTES: Final = 8
#: Body of an event.
EVENT_BYTES: Final = 1024 * 1024
#: A training's output, as serialized in an event. Leaves room for the event's other fields; an output that large
#: never merely names a version.
OUTPUT_BYTES: Final = 512 * 1024
#: Body of a copy (retry, dead letter, replay) of a message that the broker accepted before. RabbitMQ 4's default.
COPY_BYTES: Final = 16 * 1024 * 1024
#: AMQP short strings: routing key, content type, type and ids.
SHORT_BYTES: Final = 255
#: One CloudEvents attribute.
ATTRIBUTE_CHARACTERS: Final = 255

_NAME_BYTES: Final = 128
_VALUE_BYTES: Final = 4096
_OUR_VALUE_BYTES: Final = 1024
#: Bound for all copied headers together. The rest of the frame is for the `x-dead-*` headers and the broker's own.
_CARRIED_BYTES: Final = 32 * 1024
#: Per header field: its type, its length, and the length of its name.
_FIELD_OVERHEAD_BYTES: Final = 6
_INTEGER_BYTES: Final = 8
#: RabbitMQ routes by these, and refuses a message in which they are not lists.
ROUTING_HEADERS: Final = ("CC", "BCC")
#: Copied before all other headers.
_OURS: Final = frozenset(
    {
        *(f"ce-{name}" for name in ("specversion", "id", "type", "source", "time", "subject", "causationid")),
        *(f"ce-{name}" for name in ("replay", "trigger")),
        *TRACE_HEADERS,
        *RETRY_HEADERS,
    }
)


class Unpublishable(PermanentError):
    """
    This message cannot be published, now or later, because of its own content or size.

    ``message_too_large``, ``message_unencodable``, or ``message_refused`` by the broker.
    """

    code = "message_too_large"


def clip(text: str, size_bytes: int) -> str:
    """Truncate *text* to at most *size_bytes* of UTF-8."""
    return text.encode("utf-8", "replace")[:size_bytes].decode("utf-8", "ignore")


def short(text: object) -> str | None:
    """Return *text* if it is a valid, non-empty AMQP short string; else None."""
    if not isinstance(text, str) or not text or len(text.encode("utf-8", "replace")) > SHORT_BYTES:
        return None
    return text


def attribute(value: object) -> str | None:
    """Return *value* if it is a valid CloudEvents attribute: printable text of limited length; else None."""
    if isinstance(value, str) and 0 < len(value) <= ATTRIBUTE_CHARACTERS and value.isprintable():
        return value
    return None


def carried(headers: Mapping[str, object]) -> dict[str, str | int]:
    """Return the headers for a copy of a message: bounded in size, without those that affect routing or retries."""
    kept: dict[str, str | int] = {}
    left = _CARRIED_BYTES
    for name in sorted(headers, key=lambda name: name not in _OURS):
        if name in ROUTING_HEADERS or name.startswith(BROKERS_OWN):
            continue
        value = _plain(headers[name], _OUR_VALUE_BYTES if name in _OURS else _VALUE_BYTES)
        name_bytes = len(name.encode("utf-8", "replace"))
        size = name_bytes + _FIELD_OVERHEAD_BYTES + (_INTEGER_BYTES if isinstance(value, int) else len(value.encode()))
        if name_bytes <= _NAME_BYTES and size <= left:
            kept[name] = value
            left -= size
    return kept


def _plain(value: object, size_bytes: int) -> str | int:
    # Floats become text: the client would write them rounded, or not at all.
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return clip(str(value), size_bytes)
