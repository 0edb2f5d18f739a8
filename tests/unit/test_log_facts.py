"""By which ids a log line about an event is found."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import structlog

from shared.contract.envelope import Envelope, wrap
from shared.contract.events import Event, ModelActivated, ModelReady
from shared.runtime.logs import log_fact

REF = "0" * 32
MODEL = f"acme/u-1:{'a' * 64}"
READY = ModelReady.model_validate(
    {"training_id": "t1", "model": MODEL, "evidence": {"shape": "version", "checks": ["exists"], "seconds": 0.1}}
)
ACTIVATED = ModelActivated.model_validate(
    {"training_id": "t1", "user_id": "ann", "generation": 1, "ref": REF, "model": MODEL}
)


def enveloped(event: Event) -> Envelope:
    return wrap(event, source="test", now=datetime(2026, 11, 28, tzinfo=UTC))


@pytest.mark.parametrize(("event", "user"), [(READY, {}), (ACTIVATED, {"user_id": "ann"})])
def test_a_line_names_the_user_where_the_event_does(event, user):
    envelope = enveloped(event)

    expected = {"routing_key": event.key, "training_id": "t1", "message_id": envelope.id, **user}

    assert envelope.ids() == expected


def test_ids_that_were_read_before_are_not_read_again():
    with structlog.testing.capture_logs() as lines:
        log_fact(structlog.get_logger(), "delivery.handled", enveloped(READY), {"message_id": "read-before"}, n=1)

    assert lines == [{"event": "delivery.handled", "message_id": "read-before", "n": 1, "log_level": "info"}]
