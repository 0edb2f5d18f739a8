"""Does a message fit on the wire? Pure: measured before it is published, because what does not fit harms others."""

from __future__ import annotations

import struct
from typing import Final

from aiormq import spec
from pamqp.header import ContentHeader

from shared.contract.limits import FRAME_OVERHEAD_BYTES, SHORT_BYTES, Unpublishable
from shared.runtime.broker.message import Outgoing

#: How the library's encoder fails.
ENCODING_ERRORS: Final = (TypeError, ValueError, OverflowError, struct.error)

#: The short strings among the properties, and all that is of fixed size.
_PROPERTIES_BYTES: Final = 6 * SHORT_BYTES
#: Of a field: the length of its name, its type, and a number or the length of a text.
_FIELD_BYTES: Final = 16
_UTF8_BYTES: Final = 4


def check_size(message: Outgoing, properties: spec.Basic.Properties, *, frame_bytes: int) -> None:
    """
    Let *message* pass if it fits into frames of *frame_bytes*, and its body within the message's own limit.

    Raises:
        Unpublishable: if it does not, or can not be encoded.

    """
    if len(message.body) > message.body_limit_bytes:
        raise Unpublishable(
            f"the body of {_name(message)} takes {len(message.body)} bytes; {message.body_limit_bytes} are allowed"
        )
    limit = frame_bytes - FRAME_OVERHEAD_BYTES
    if _at_most(message) <= limit:
        return
    try:
        size = len(ContentHeader(properties=properties).marshal())
    except ENCODING_ERRORS as error:
        raise unencodable(message, error) from error
    if size > limit:
        raise Unpublishable(f"the headers of {_name(message)} take {size} bytes; {limit} are allowed")


def unencodable(message: Outgoing, error: Exception) -> Unpublishable:
    """How *message* fails when it cannot be put into AMQP."""
    return Unpublishable(f"{_name(message)} can not be encoded: {error}", code="message_unencodable")


def _at_most(message: Outgoing) -> int:
    """No less than the size of its header frame, without encoding it: nearly all messages are far below the limit."""
    size = _PROPERTIES_BYTES
    for name, value in message.headers.items():
        size += _FIELD_BYTES + _UTF8_BYTES * len(name)
        if isinstance(value, str):
            size += _UTF8_BYTES * len(value)
        elif not isinstance(value, (int, float)):
            return 2**63  # tables and the like are measured
    return size


def _name(message: Outgoing) -> str:
    return f"a message to {message.exchange or 'queue'} {message.routing_key}"
