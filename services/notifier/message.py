"""The body of a webhook: a public event as a CloudEvent in structured mode. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from shared.contract.envelope import REPLAY_HEADER, TYPE_PREFIX, Envelope
from shared.contract.errors import Malformed
from shared.contract.events import EVENTS_EXCHANGE

CONTENT_TYPE: Final = "application/cloudevents+json"
#: Type of a test: no public event, so that no subscriber takes it for a fact about a user.
TEST: Final = "webhook.test.v1"
#: Stands where a training's id is expected.
_NO_TRAINING: Final = "webhook-test"
#: It is sent as a header, and a dot separates it from the timestamp in what is signed.
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,255}")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event, as it is stored and sent."""

    id: str
    #: Routing key.
    type: str
    training_id: str
    trace: Mapping[str, str]
    body: str
    time: datetime


def stored(envelope: Envelope) -> StoredEvent:
    """
    Return a public event as it is sent: its attributes and its data, nothing else.

    Raises:
        Malformed: if it is not public, or has an id that cannot be a webhook's.

    """
    if envelope.event.exchange != EVENTS_EXCHANGE:
        raise Malformed(f"{envelope.routing_key} is no public event", code="unexpected_event")
    if not _ID.fullmatch(envelope.id):
        raise Malformed("the event's id cannot be the id of a webhook")
    headers = envelope.headers()
    attributes = {
        name.removeprefix("ce-"): text
        for name, text in headers.items()
        if name != REPLAY_HEADER and (name.startswith("ce-") or name in envelope.trace)
    }
    data = json.loads(envelope.body())
    return StoredEvent(
        id=envelope.id,
        type=envelope.routing_key,
        training_id=envelope.event.training_id,
        trace=envelope.trace,
        body=_body(attributes, data),
        time=envelope.time,
    )


def make_test(event_id: UUID, endpoint_id: UUID, now: datetime) -> StoredEvent:
    """Return an event that only tests an endpoint."""
    attributes = {
        "specversion": "1.0",
        "id": str(event_id),
        "type": TYPE_PREFIX + TEST,
        "source": "/modelswap/notifier",
        "time": now.isoformat().replace("+00:00", "Z"),
        "subject": str(endpoint_id),
    }
    body = _body(attributes, {"endpoint_id": str(endpoint_id)})
    return StoredEvent(str(event_id), TEST, _NO_TRAINING, {}, body, now)


def _body(attributes: Mapping[str, str], data: object) -> str:
    return json.dumps({**attributes, "datacontenttype": "application/json", "data": data}, ensure_ascii=False)
