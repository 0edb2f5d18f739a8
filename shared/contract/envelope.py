"""
Envelope: encodes an event with its metadata as a message, and decodes it. Pure.

CloudEvents 1.0 in binary mode over AMQP 0-9-1: the body is the event's JSON, every attribute is a header ``ce-<name>``
(the Knative RabbitMQ binding; the official AMQP binding is for AMQP 1.0). Structured mode is understood on input.
``ce-type`` is ``dev.modelswap.`` + the routing key, so the type survives delays and dead letters, which change the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from shared.contract.errors import Malformed
from shared.contract.events import EVENTS, Event
from shared.contract.headers import FAILED_AT, FAILED_BY, attempt_in, trace_id_in, trace_in
from shared.contract.limits import ATTRIBUTE_CHARACTERS, EVENT_BYTES
from shared.contract.moments import in_utc
from shared.contract.values import Retries

TYPE_PREFIX: Final = "dev.modelswap."
CONTENT_TYPE: Final = "application/json"
#: The id of an operator's replay; copied to every event that follows from the replayed message.
REPLAY_HEADER: Final = "ce-replay"
#: Marks a made-up event of `modelswap trigger`, whatever its value: our own consumers ignore it.
TRIGGER_HEADER: Final = "ce-trigger"

Headers = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event with its metadata."""

    event: Event
    #: Derived from the fact (`Event.id`), so equal facts have equal ids.
    id: str
    #: ``/modelswap/<service>``
    source: str
    time: datetime
    #: The id of the event that caused this one.
    causation_id: str | None = None
    trace: Mapping[str, str] = field(default_factory=dict)
    #: The replay mark of `services.ops` that caused this event; None if no replay did.
    replay: str | None = None
    #: Which attempt at handling it this is; None at the first. Of this delivery, so it is not sent along.
    retries: Retries | None = None
    #: A made-up event of `modelswap trigger`, for testing subscribers.
    is_made_up: bool = False

    @property
    def routing_key(self) -> str:
        return self.event.key

    def ids(self) -> dict[str, str]:
        """Return the ids by which log lines about it are found."""
        event = self.event
        ids = {"routing_key": event.key, "training_id": event.training_id, "message_id": self.id}
        # Not getattr: where there is no such field, pydantic takes 12 µs to say so.
        user_id = vars(event).get("user_id")
        if user_id is not None:
            ids["user_id"] = user_id
        trace_id = trace_id_in(self.trace.get("traceparent")) if self.trace else None
        if trace_id is not None:
            ids["trace_id"] = trace_id
        return ids

    def headers(self) -> dict[str, str]:
        """The CloudEvents attributes as AMQP headers."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-type": TYPE_PREFIX + self.event.key,
            "ce-source": self.source,
            "ce-time": self.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "ce-subject": self.event.subject,
            **self.trace,
        }
        if self.causation_id is not None:
            headers["ce-causationid"] = self.causation_id
        if self.replay is not None:
            headers[REPLAY_HEADER] = self.replay
        if self.is_made_up:
            headers[TRIGGER_HEADER] = "true"
        return headers

    def body(self) -> bytes:
        """The event as JSON."""
        return self.event.model_dump_json(exclude_none=True).encode()


def wrap(
    event: Event, *, source: str, now: datetime, cause: Envelope | None = None, trace: Mapping[str, str] | None = None
) -> Envelope:
    """Put *event* into an envelope; trace context and replay mark are copied from *cause*, unless *trace* is given."""
    return Envelope(
        event=event,
        id=event.id,
        source=f"/modelswap/{source}",
        time=now,
        causation_id=cause.id if cause else None,
        trace=trace or (cause.trace if cause else {}),
        replay=cause.replay if cause else None,
    )


def attribute(value: object) -> str | None:
    """Return *value* if it is a valid CloudEvents attribute: printable text of limited length; else None."""
    if isinstance(value, str) and 0 < len(value) <= ATTRIBUTE_CHARACTERS and value.isprintable():
        return value
    return None


def is_structured(content_type: str | None) -> bool:
    """Return whether *content_type* is CloudEvents' structured mode, with all attributes in the body."""
    return (content_type or "").startswith("application/cloudevents")


def decode(headers: Headers, content_type: str | None, body: bytes) -> Envelope:
    """
    Decode an envelope from a message. Values that are copied to follow-up events are limited in length.

    Raises:
        Malformed: if the message is not a CloudEvent, is too large, or has an unknown event type or major version.

    """
    if len(body) > EVENT_BYTES:
        raise Malformed(f"an event of {len(body)} bytes; {EVENT_BYTES} are allowed", code="message_too_large")
    attributes, body = _unfold(body) if is_structured(content_type) else (headers, body)
    kind = _text(attributes, "type")
    event_class = EVENTS.get(kind.removeprefix(TYPE_PREFIX)) if kind.startswith(TYPE_PREFIX) else None
    if event_class is None:
        raise Malformed(f"unknown event type {kind[:200]!r}", code="unknown_event")
    try:
        event = event_class.model_validate_json(body)
    except ValidationError as error:
        raise Malformed(f"{kind} with a body that is not one: {_first(error)}") from error
    return Envelope(
        event=event,
        id=_text(attributes, "id"),
        source=_text(attributes, "source"),
        time=_time(_text(attributes, "time")),
        causation_id=attribute(attributes.get("ce-causationid")),
        trace=trace_in(headers),
        # Always a header, in structured mode too: ops marks the message without rewriting its body.
        replay=attribute(headers.get(REPLAY_HEADER)),
        retries=_retries(headers),
        is_made_up=TRIGGER_HEADER in headers,
    )


def _unfold(body: bytes) -> tuple[Headers, bytes]:
    """Return the attributes of a structured event as the headers that they are in binary mode, and its data."""
    try:
        document = json.loads(body)
        data = document.pop("data")
        return {f"ce-{name}": value for name, value in document.items()}, json.dumps(data).encode()
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise Malformed("a structured CloudEvent that is not a JSON object with data") from error


def _retries(headers: Headers) -> Retries | None:
    attempt = attempt_in(headers)
    failed_at = None if attempt == 1 else _moment(attribute(headers.get(FAILED_AT)) or "")
    if failed_at is None:
        return None
    return Retries(attempt=attempt, first_failed_at=failed_at, last_error=attribute(headers.get(FAILED_BY)) or "")


def _text(attributes: Headers, name: str) -> str:
    value = attribute(attributes.get(f"ce-{name}"))
    if value is None:
        raise Malformed(
            f"not a CloudEvent: attribute {name!r} is missing, or not printable text of at most "
            f"{ATTRIBUTE_CHARACTERS} characters"
        )
    return value


def _time(text: str) -> datetime:
    moment = _moment(text)
    if moment is None:
        raise Malformed(f"ce-time {text[:64]!r} is not a time")
    return moment


def _moment(text: str) -> datetime | None:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        return None


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
