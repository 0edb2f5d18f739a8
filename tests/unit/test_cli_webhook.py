"""A webhook that `modelswap trigger` makes up is taken for what it says."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.cli.choices import Trigger
from services.cli.events.webhook import Webhook, named_output, signed, some_version, training
from services.extractor.filter import extract
from shared.contract.events import TrainingProgressed
from shared.contract.identity import ModelName
from shared.replicate.signature import verify
from shared.replicate.training import decode_training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Claim, Origin

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ANN = ModelName("demo", "ann")
WEBHOOKS = [trigger for trigger in Trigger if trigger.is_webhook]


def webhook(trigger: Trigger) -> Webhook:
    output = named_output(ANN, some_version("t1"))
    body = training(trigger, "t1", now=NOW, output=output, percent=42, error="out of memory")
    return signed(body, SECRET, message_id="msg_1", now=NOW)


@pytest.mark.parametrize("trigger", WEBHOOKS)
def test_it_says_what_was_asked_for(trigger):
    event = translate(decode_training(webhook(trigger).body), Origin(Claim(UUID(int=1), ANN, None)), size_bytes=0)

    assert event.key == f"{trigger}.v1"
    assert event.training_id == "t1"


@pytest.mark.parametrize("trigger", WEBHOOKS)
def test_it_is_signed_as_replicate_signs(trigger):
    made = webhook(trigger)

    verify(
        [SECRET],
        message_id=made.headers["webhook-id"],
        timestamp=made.headers["webhook-timestamp"],
        signatures=made.headers["webhook-signature"],
        body=made.body,
        now=NOW.timestamp(),
    )

    assert made.headers["webhook-id"] == "msg_1"


def test_its_log_says_how_far_it_is():
    event = translate(decode_training(webhook(Trigger.PROGRESSED).body), Origin(), size_bytes=0)

    assert isinstance(event, TrainingProgressed)
    assert (event.step, event.total, event.fraction) == (420, 1000, 0.42)


def test_its_output_names_the_model():
    found = extract(decode_training(webhook(Trigger.SUCCEEDED).body), ANN)

    assert found.model == ANN.at(some_version("t1"))
