"""Spans of messages, named by OpenTelemetry's semantic conventions for messaging. One statement, if tracing is off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from shared.contract.envelope import attribute
from shared.contract.headers import ATTEMPT, in_trace, sampled_trace_id_in, trace_in
from shared.runtime import tracing
from shared.runtime.broker.message import Delivery, Outgoing
from shared.runtime.span import NO_SPAN, Kind, Span


def publishing(message: Outgoing) -> Span:
    """Start the span of one publish, in the trace of the message."""
    if not tracing.is_on():
        return NO_SPAN
    name = f"{message.exchange}:{message.routing_key}" if message.exchange else message.routing_key
    attributes = _about("publish", "send", name, message.routing_key, message.headers)
    if message.correlation_id is not None:
        attributes["messaging.message.conversation_id"] = message.correlation_id
    return tracing.span(f"publish {name}", Kind.PRODUCER, attributes, parent=trace_in(message.headers))


def processing(delivery: Delivery) -> tuple[Delivery, Span]:
    """Start the span of a delivery; return the delivery as a part of it, so that all that follows is too."""
    if not tracing.is_on():
        return delivery, NO_SPAN
    places = [delivery.exchange, delivery.routing_key, delivery.queue]
    name = ":".join(dict.fromkeys(filter(None, places)))
    attributes = _about("process", "process", name, delivery.routing_key, delivery.headers)
    attributes["messaging.rabbitmq.message.delivery_tag"] = delivery.tag
    if ATTEMPT in delivery.headers:
        attributes["modelswap.attempt"] = delivery.attempt
    span = tracing.span(f"process {name}", Kind.CONSUMER, attributes, parent=trace_in(delivery.headers), is_root=True)
    return replace(delivery, headers=in_trace(delivery.headers, span.context)), span


def handling(queue: str, spans: Sequence[Span]) -> AbstractContextManager[object]:
    """
    Make the span of a delivery the current one; of several, a span of the batch, with links in both directions.

    The batch is a part of the first trace that is sampled, not one of its own, which the SDK's sampler would decide on
    anew: so every delivery that is recorded has its batch recorded. If none is, the batch is not.
    """
    if len(spans) == 1:
        return spans[0].at_work()
    if not tracing.is_on():
        return NO_SPAN
    sampled = [span for span in spans if sampled_trace_id_in(span.context.get("traceparent"))]
    return _batch(queue, len(spans), sampled) if sampled else NO_SPAN


@contextmanager
def _batch(queue: str, count: int, sampled: Sequence[Span]) -> Iterator[None]:
    attributes: dict[str, str | int] = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue,
        "messaging.batch.message_count": count,
    }
    # No links to the others, which nobody can follow: the SDK keeps only 128 of a span.
    links = [span.context for span in sampled]
    with tracing.span(f"process {queue}", Kind.CONSUMER, attributes, parent=links[0], links=links) as batch:
        for span in sampled:
            span.link(batch.context)
        yield


def _about(action: str, kind: str, name: str, routing_key: str, headers: Mapping[str, object]) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": action,
        "messaging.operation.type": kind,
        "messaging.destination.name": name,
        "messaging.rabbitmq.destination.routing_key": routing_key,
    }
    message_id = attribute(headers.get("ce-id"))
    if message_id is not None:
        attributes["messaging.message.id"] = message_id
    return attributes
