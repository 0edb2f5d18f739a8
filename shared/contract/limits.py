"""
How large may a message be, and what is carried of headers from outside? Pure.

A message whose properties and headers do not fit into one AMQP frame, or whose body is larger than the broker allows,
makes the broker close the connection or channel, and with it every other publish on it. So values from outside are
bounded where they enter, and every message is measured before it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.contract.dead import ATTEMPT, BROKERS_OWN, FAILED_AT
from shared.contract.errors import PermanentError
from shared.contract.trace import TRACE_HEADERS

#: What RabbitMQ and its clients agree on unless somebody lowers it.
FRAME_BYTES: Final = 128 * 1024
#: A frame's own header and end.
FRAME_OVERHEAD_BYTES: Final = 8
#: Body of an event.
EVENT_BYTES: Final = 1024 * 1024
#: A training's output, as it is written into an event: beside it there is room for all that an event says. An output
#: that size is no answer to "which version?".
OUTPUT_BYTES: Final = 512 * 1024
#: Body of a copy (retry, dead letter, replay) of a message that the broker took before. RabbitMQ 4's own default.
COPY_BYTES: Final = 16 * 1024 * 1024
#: Routing key, content type, type and ids in AMQP.
SHORT_BYTES: Final = 255
#: One attribute of an event.
ATTRIBUTE_CHARACTERS: Final = 255

_NAME_BYTES: Final = 128
_VALUE_BYTES: Final = 4096
_OUR_VALUE_BYTES: Final = 1024
#: Half a frame stays free: for what a dead letter says of its failure, and for what the broker adds.
_CARRIED_BYTES: Final = 32 * 1024
#: A type, a length, and the length of the name.
_FIELD_OVERHEAD_BYTES: Final = 6
_INTEGER_BYTES: Final = 8
#: RabbitMQ routes by them, and refuses a message in which they are no lists.
ROUTING_HEADERS: Final = ("CC", "BCC")
#: Carried first.
_OURS: Final = frozenset(
    {
        *(f"ce-{name}" for name in ("specversion", "id", "type", "source", "time", "subject", "causationid")),
        *(f"ce-{name}" for name in ("replay", "trigger")),
        *TRACE_HEADERS,
        ATTEMPT,
        FAILED_AT,
    }
)


class Unpublishable(PermanentError):  # noqa: N818 (it is a condition, and reads as one)
    """
    This message can not be published, now or later: the fault is in the message, not in the broker.

    ``message_too_large``, ``message_unencodable``, or ``message_refused`` by the broker.
    """

    code = "message_too_large"


def clip(text: str, size_bytes: int) -> str:
    """The beginning of *text* that takes at most *size_bytes* as UTF-8."""
    return text.encode("utf-8", "replace")[:size_bytes].decode("utf-8", "ignore")


def short(text: object) -> str | None:
    """*text* as one of AMQP's short strings; None if it is none, is empty or does not fit."""
    if not isinstance(text, str) or not text or len(text.encode("utf-8", "replace")) > SHORT_BYTES:
        return None
    return text


def attribute(value: object) -> str | None:
    """*value* as an attribute of an event; None if it is not some printable text of bounded length."""
    if isinstance(value, str) and 0 < len(value) <= ATTRIBUTE_CHARACTERS and value.isprintable():
        return value
    return None


def carried(headers: Mapping[str, object]) -> dict[str, str | int]:
    """What of *headers*, whatever they are, goes on a copy of their message: it always fits, and steers nothing."""
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
    # A fraction would be rounded, or not fit, in what the client writes.
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return clip(str(value), size_bytes)
