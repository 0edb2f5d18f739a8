"""Messages: envelopes, retries and dead letters as bytes and headers, and decoded again. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from shared.contract.envelope import CONTENT_TYPE, Envelope, decode
from shared.contract.errors import Malformed, code_of
from shared.contract.headers import (
    ATTEMPT,
    DEAD,
    FAILED_AT,
    FAILED_BY,
    PUBLISHED_AT,
    ROUTING_HEADERS,
    attempt_in,
    carried,
)
from shared.contract.limits import COPY_BYTES, EVENT_BYTES, clip, short
from shared.contract.retry import RetryIn
from shared.contract.topology import DEAD_EXCHANGE, Topology, delay_name
from shared.runtime.span import NO_SPAN, Span

#: Limits of a dead letter's texts, so that with the copied headers they fit into one frame.
_TEXT_BYTES: Final = 4096
_TRACEBACK_BYTES: Final = 16_384

Headers = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Headers = field(default_factory=dict)
    content_type: str | None = CONTENT_TYPE
    message_type: str | None = None
    correlation_id: str | None = None
    #: AMQP's mandatory flag: a publish that reaches no queue is an error.
    mandatory: bool = True
    #: A larger body is never published.
    body_limit_bytes: int = EVENT_BYTES


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message to a consumer."""

    queue: str
    tag: int
    exchange: str
    routing_key: str
    headers: Headers
    content_type: str | None
    body: bytes
    #: The publisher's timestamp. A retry is published anew.
    published_at: datetime | None = None

    @property
    def attempt(self) -> int:
        """The 1-based number of this attempt."""
        return attempt_in(self.headers)

    @property
    def first_published_at(self) -> datetime | None:
        """When the message of the first attempt was published."""
        value = self.headers.get(PUBLISHED_AT)
        try:
            first = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            first = None
        return first if first is not None and first.tzinfo is not None else self.published_at


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery with its decoded envelope, or its decoding error."""

    delivery: Delivery
    envelope: Envelope | None
    error: Malformed | None
    #: Ids that every log line about it carries.
    ids: Mapping[str, str] = field(default_factory=dict)
    span: Span = NO_SPAN


def read(delivery: Delivery, span: Span = NO_SPAN) -> Item:
    """Decode *delivery*."""
    try:
        envelope = decode(delivery.headers, delivery.content_type, delivery.body)
    except Malformed as error:
        return Item(delivery, None, error, span=span)
    return Item(delivery, envelope, None, envelope.ids(), span)


def to_message(envelope: Envelope, topology: Topology) -> Outgoing:
    """Encode *envelope* as a message to its event's exchange."""
    event = type(envelope.event)
    headers = envelope.headers()
    return Outgoing(
        exchange=event.exchange,
        routing_key=event.key,
        body=envelope.body(),
        headers=headers,
        message_type=headers["ce-type"],
        correlation_id=envelope.event.training_id,
        mandatory=topology.has_binding(event),
    )


def retry(delivery: Delivery, step: RetryIn, error: BaseException, *, now: datetime) -> Outgoing:
    """Return a copy of the message, which failed with *error*, that returns to its queue after the step's delay."""
    kept = carried(delivery.headers)
    first = {PUBLISHED_AT: (delivery.published_at or now).isoformat(), FAILED_AT: now.isoformat()}
    headers = {**first, **kept, ATTEMPT: step.attempt, FAILED_BY: code_of(error)}
    return _again(delivery, delay_name(step.delay), headers)


def put_back(delivery: Delivery) -> Outgoing:
    """Return a copy of the message for the end of its queue, with its original exchange and routing key."""
    headers = {name: value for name, value in delivery.headers.items() if name not in ROUTING_HEADERS}
    return replace(_again(delivery, delivery.exchange, headers), routing_key=delivery.routing_key)


def dead_letter(delivery: Delivery, error: BaseException, *, now: datetime) -> Outgoing:
    """Return a copy of the message for the dead queue, with its error; headers and texts are cut to fit a frame."""
    kept = carried(delivery.headers)
    headers = {
        **kept,
        f"{DEAD}queue": delivery.queue,
        f"{DEAD}exchange": delivery.exchange,
        f"{DEAD}routing-key": delivery.routing_key,
        f"{DEAD}error": code_of(error),
        f"{DEAD}class": type(error).__name__,
        f"{DEAD}text": clip(str(error), _TEXT_BYTES),
        f"{DEAD}traceback": _traceback(error),
        f"{DEAD}attempts": delivery.attempt,
        f"{DEAD}first-failure": str(kept.get(FAILED_AT, now.isoformat())),
        f"{DEAD}last-failure": now.isoformat(),
    }
    return _again(delivery, DEAD_EXCHANGE, headers)


def _again(delivery: Delivery, exchange: str, headers: Headers) -> Outgoing:
    return Outgoing(
        exchange=exchange,
        routing_key=delivery.queue,
        body=delivery.body,
        headers=headers,
        content_type=short(delivery.content_type),
        message_type=short(delivery.headers.get("ce-type")),
        body_limit_bytes=COPY_BYTES,
    )


def _traceback(error: BaseException) -> str:
    # Without local variables, which may hold a token. The end is kept: it has the cause.
    lines = "".join(traceback.format_exception(error, limit=-20))
    return clip(lines[-_TRACEBACK_BYTES:], _TRACEBACK_BYTES)
