"""A delivery with its decoded envelope, as the consumer works on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from shared.contract.envelope import Envelope, decode
from shared.contract.errors import Malformed
from shared.runtime.broker.message import Delivery
from shared.runtime.broker.spans import processing
from shared.runtime.logs import about
from shared.runtime.span import NO_SPAN, Span


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery with its decoded envelope, or its decoding error."""

    delivery: Delivery
    envelope: Envelope | None
    error: Malformed | None
    #: Ids that every log line about it carries.
    ids: Mapping[str, str] = field(default_factory=dict)
    span: Span = NO_SPAN


def read(delivery: Delivery) -> Item:
    """Decode *delivery*."""
    try:
        envelope = decode(delivery.headers, delivery.content_type, delivery.body)
    except Malformed as error:
        return Item(delivery, None, error)
    return Item(delivery, envelope, None, envelope.ids())


def begin(delivery: Delivery) -> Item:
    """Decode *delivery*, and start its span."""
    delivery, span = processing(delivery)
    item = read(delivery)
    return item if span is NO_SPAN else replace(item, span=span)


def bound(items: Sequence[Item]) -> AbstractContextManager[None]:
    """Bind the delivery's ids to the handler's log lines, if the batch is a single delivery."""
    return about(items[0].ids) if len(items) == 1 else nullcontext()
