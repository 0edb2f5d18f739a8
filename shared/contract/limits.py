"""
Size limits of messages. Pure.

A message whose properties and headers do not fit into one AMQP frame, or whose body is larger than the broker allows,
makes the broker close the connection or channel, and with it every other publish on it. So values from outside are
bounded where they enter, and every message is measured before it is published.
"""

from __future__ import annotations

from typing import Final

from shared.contract.errors import PermanentError

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
