"""What is on the wire? Pure: envelopes to messages, and those again as retries and dead letters."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from shared.contract.dead import ATTEMPT, BROKERS_OWN, DEAD, FAILED_AT
from shared.contract.envelope import CONTENT_TYPE, Envelope
from shared.contract.errors import code_of
from shared.contract.retry import RetryIn
from shared.contract.topology import DEAD_EXCHANGE, Topology, delay_name

#: A frame of headers over about 131 kB closes the whole connection.
_TEXT_LIMIT: Final = 4096
_TRACEBACK_LIMIT: Final = 16_384
_FOREIGN_HEADERS_LIMIT: Final = 64

Headers = Mapping[str, Any]


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
    #: Must some queue take it? A publish that reaches none is then an error.
    mandatory: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hand-over of a message to a consumer."""

    queue: str
    tag: int
    exchange: str
    routing_key: str
    headers: Headers
    content_type: str | None
    body: bytes
    #: When its message was published, as its publisher stamped it.
    published_at: datetime | None = None
    #: When it came, by the clock of the event loop that it came to.
    came_at: float = 0.0

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        attempt = self.headers.get(ATTEMPT)
        return attempt if isinstance(attempt, int) and attempt > 0 else 1


def to_message(envelope: Envelope, topology: Topology) -> Outgoing:
    """*envelope* as a message on its event's own exchange."""
    event = type(envelope.event)
    headers = envelope.headers()
    return Outgoing(
        exchange=event.exchange,
        routing_key=event.key,
        body=envelope.body(),
        headers=headers,
        message_type=headers["ce-type"],
        correlation_id=envelope.event.training_id,
        mandatory=topology.is_heard(event),
    )


def retry(delivery: Delivery, step: RetryIn, *, now: datetime) -> Outgoing:
    """The same message, to come back to the same queue after the step's delay."""
    headers = {FAILED_AT: now.isoformat(), **_kept(delivery.headers), ATTEMPT: step.attempt}
    return _again(delivery, delay_name(step.delay), headers)


def give_back(delivery: Delivery, delay: timedelta) -> Outgoing:
    """The same message, to come back to the same queue after *delay* as if it had never been handed over."""
    return _again(delivery, delay_name(delay), _kept(delivery.headers))


def dead_letter(delivery: Delivery, error: BaseException, *, now: datetime) -> Outgoing:
    """The same message, set aside with its reason."""
    kept = _kept(delivery.headers)
    headers = {
        **kept,
        f"{DEAD}queue": delivery.queue,
        f"{DEAD}exchange": delivery.exchange,
        f"{DEAD}routing-key": delivery.routing_key,
        f"{DEAD}error": code_of(error),
        f"{DEAD}class": type(error).__name__,
        f"{DEAD}text": _clip(str(error), _TEXT_LIMIT),
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
        content_type=delivery.content_type,
        message_type=str(delivery.headers.get("ce-type", "")) or None,
    )


def _kept(headers: Headers) -> dict[str, Any]:
    """The producer's own headers, as far as they can travel again."""
    kept = {
        name: value if isinstance(value, bool | int | float) else _clip(str(value), _TEXT_LIMIT)
        for name, value in headers.items()
        if not name.startswith(BROKERS_OWN)
    }
    return dict(list(kept.items())[:_FOREIGN_HEADERS_LIMIT])


def _traceback(error: BaseException) -> str:
    # Frames only: local variables may hold a token.
    lines = traceback.format_exception(error, limit=-20)
    return "".join(lines)[-_TRACEBACK_LIMIT:]


def _clip(text: str, limit: int) -> str:
    # In bytes, because that is what a frame counts.
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
