"""The AsyncAPI 3.0 document of the public events. Pure: made of the event classes and the topology that run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from services.cli.choices import Trigger
from services.cli.docs.schemas import PUBLIC, headers_schema, named_schemas
from services.cli.events.made_up import Story
from services.ops.subscriptions.plan import OVERFLOW, PREFIX
from shared.contract.envelope import CONTENT_TYPE, TYPE_PREFIX, wrap
from shared.contract.events import Event, ExtractionFailed, ModelReady, UserEvent
from shared.contract.identity import ModelName
from shared.contract.topology import EVENTS_LOG, topology

Document = dict[str, Any]

_ABOUT: Final = """\
The public events of modelswap: what became of a training's model, and which model each user has.

Each event is a CloudEvent 1.0 in binary mode over AMQP 0-9-1: the attributes are headers (`ce-…`), the body is a JSON
object. No field is ever null: one that has no value is missing. Fields that you do not know are to be ignored, because
a later version of modelswap may add some.

What is promised of all of them:

- **At least once.** What was committed is published until the broker confirms it. A message may come again.
- **The same fact has the same `ce-id`**, however often it is published: a consumer may drop what it has seen.
- **The type is `ce-type`**: `dev.modelswap.` and the key of the channel. A message's own routing key is the name of a
  queue once it was resent to one subscription, or is in an overflow queue.
- **No order.** Events overtake each other: retries, redeliveries and several processes see to that.
- **The highest generation wins.** A user's generations only rise, and not every number occurs. Of a user's
  `model.activated` and `model.withdrawn`, the one with the highest generation says which model the user has. Keep that
  generation, and ignore every event with the same or a lower one: then repetition and order do not matter.
- **What was missed can be read again** from the log, as far back as it is kept. The state to begin with is the snapshot
  `GET /v1/models`: take it first, then the log from just before it began.
- **Under one version** a field may be added; none is removed, made optional or changed. A change that needs more is a
  new event (`.v2`), published beside the old one for a while.
"""
_OF_A_USER: Final = """\
Published after the commit. There is one for each generation of a user, and it may be delivered several times, in any
order with the user's others.
"""
_OF_A_TRAINING: Final = """\
Published before any commit, once for each extraction that came to this. When the extraction is retried, or replayed by
an operator, another follows; the same result has the same `ce-id`. It says nothing about the user's current model.
"""
_SOURCES: Final[Mapping[type[Event], str]] = {ModelReady: "extractor", ExtractionFailed: "extractor"}
_NOON: Final = datetime(2026, 11, 28, 12, 0, 0, 123000, tzinfo=UTC)
_TRACE: Final = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
_STORY: Final = Story(
    user_id="user-42",
    training_id="zz4ibbonubfz7carwiefibzgga",
    destination=ModelName("acme", "user-42"),
    version="5c" * 32,
    generation=7,
    error="no version of acme/user-42 is named in the output",
)


def asyncapi() -> Document:
    names = {key: event.__name__ for key, event in PUBLIC.items()}
    headers = {name: value for name, value in headers_schema().items() if name not in ("$schema", "$id")}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Events of modelswap",
            "version": "1",
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {**{key: _channel(event) for key, event in PUBLIC.items()}, EVENTS_LOG: _log()},
        "operations": {
            f"publish{name}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{key}"},
                "summary": f"modelswap publishes `{key}`; a subscriber receives it.",
                "bindings": {"amqp": {"deliveryMode": 2, "timestamp": True, "bindingVersion": "0.3.0"}},
                "messages": [{"$ref": f"#/channels/{key}/messages/{name}"}],
            }
            for key, name in names.items()
        }
        | {
            "keepEvents": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{EVENTS_LOG}"},
                "summary": "Every public event is kept in the log as well.",
            }
        },
        "components": {
            "messages": {event.__name__: _message(event) for event in PUBLIC.values()},
            "messageTraits": {"cloudEvent": {"headers": headers}},
            "schemas": named_schemas(tuple(PUBLIC.values()), "#/components/schemas/{model}"),
        },
    }


def example_of(event: type[Event]) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return headers and body of a message with such an event."""
    (made_up,) = _STORY.events([Trigger(event.key.rpartition(".")[0])])
    envelope = wrap(made_up, source=_SOURCES.get(event, "state"), now=_NOON, trace=_TRACE)
    return envelope.headers(), json.loads(envelope.body())


def _channel(event: type[Event]) -> Document:
    (exchange,) = (each for each in topology().exchanges if each.name == event.exchange)
    return {
        "address": event.key,
        "title": event.key.rpartition(".")[0],
        "description": (
            f"Published to the exchange `{exchange.name}` with this routing key. A subscription "
            "(`PUT /v1/subscriptions/{name}` of the operators' API, `modelswap subscriptions add NAME`) has the queue "
            f"`{PREFIX}NAME` that gets it, and a user that may read this queue, `{PREFIX}NAME{OVERFLOW}` and the log."
        ),
        "messages": _messages(event),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": exchange.name,
                    "type": exchange.kind,
                    "durable": True,
                    "autoDelete": False,
                },
                "bindingVersion": "0.3.0",
            }
        },
    }


def _log() -> Document:
    return {
        "address": EVENTS_LOG,
        "title": "the log",
        "description": (
            "A stream of all public events as the broker got them, kept for some days. Consume it like a queue, with a "
            "prefetch count, acks, and the argument `x-stream-offset`: `first`, `next`, a time, or a number. Each "
            "message has its own offset in the header `x-stream-offset`."
        ),
        "messages": _messages(*PUBLIC.values()),
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": EVENTS_LOG, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _messages(*events: type[Event]) -> Document:
    return {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"} for event in events}


def _message(event: type[Event]) -> Document:
    headers, payload = example_of(event)
    says, _, more = (event.__doc__ or "").strip().partition("\n\n")
    promises = _OF_A_USER if issubclass(event, UserEvent) else _OF_A_TRAINING
    return {
        "name": event.key,
        "title": event.__name__,
        "summary": says,
        "description": "\n\n".join(" ".join(part.split()) for part in (says, more, promises) if part),
        "contentType": CONTENT_TYPE,
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "headers": {"type": "object", "properties": {"ce-type": {"const": TYPE_PREFIX + event.key}}},
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"amqp": {"messageType": TYPE_PREFIX + event.key, "bindingVersion": "0.3.0"}},
        "examples": [{"name": event.key, "headers": dict(headers), "payload": payload}],
    }
