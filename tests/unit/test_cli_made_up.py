"""The public events that `modelswap trigger` makes up are events like any other, and marked."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from random import Random

from services.cli.choices import Trigger
from services.cli.events.made_up import Story, envelope
from services.cli.events.request import TriggerRequest
from shared.contract.envelope import CONTENT_TYPE, TRIGGER_HEADER, decode
from shared.contract.events import EVENTS, EVENTS_EXCHANGE, ModelActivated, ModelWithdrawn
from shared.contract.identity import ModelName

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PUBLIC = [trigger for trigger in Trigger if not trigger.is_webhook]
STORY = Story(
    user_id="ann",
    training_id="t1",
    destination=ModelName("demo", "ann"),
    version="a" * 64,
    generation=7,
    error="names no version",
)


def order(*, times: int, random: Random | None) -> TriggerRequest:
    return TriggerRequest(
        triggers=PUBLIC,
        user_id="ann",
        training_id=None,
        destination=None,
        version=None,
        output=None,
        percent=42,
        error="",
        generation=1,
        times=times,
        random=random,
    )


def test_every_public_event_can_be_triggered():
    assert {f"{trigger}.v1" for trigger in PUBLIC} == {
        key for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE
    }


def test_each_made_up_event_decodes_as_its_type_and_is_marked():
    for trigger, event in zip(PUBLIC, STORY.events(PUBLIC), strict=True):
        made_up = envelope(event, now=NOW)
        back = decode(made_up.headers(), CONTENT_TYPE, made_up.body())

        assert made_up.headers()[TRIGGER_HEADER] == "true"
        assert (back.routing_key, back.is_made_up, back.event) == (f"{trigger}.v1", True, event)


def test_made_up_generations_rise_and_models_follow_each_other():
    first, none, last = STORY.events([Trigger.MODEL_ACTIVATED, Trigger.MODEL_WITHDRAWN, Trigger.MODEL_ACTIVATED])

    assert isinstance(first, ModelActivated)
    assert isinstance(none, ModelWithdrawn)
    assert isinstance(last, ModelActivated)
    assert [first.generation, none.generation, last.generation] == [7, 8, 9]
    assert (str(first.model), none.previous, last.previous) == (f"demo/ann:{'a' * 64}", first.model, None)
    assert last.model != first.model


def test_one_training_is_ready_and_then_activated():
    ready, activated = STORY.events([Trigger.MODEL_READY, Trigger.MODEL_ACTIVATED])

    assert (ready.training_id, getattr(ready, "model", None)) == ("t1", getattr(activated, "model", ""))
    assert activated.training_id == "t1"


def test_a_seed_shuffles_the_same_way_and_loses_nothing():
    things = list(range(10))

    one, same = (order(times=2, random=Random(1)).arranged(things) for _ in range(2))

    assert one == same != order(times=2, random=None).arranged(things)
    assert Counter(one) == Counter(things * 2)
