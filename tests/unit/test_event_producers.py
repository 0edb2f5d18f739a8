"""Who makes an event fills every field of it; a field with a default would otherwise be forgotten in silence."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from services.cli.choices import Trigger
from services.cli.events.made_up import Story
from services.extractor.handler import Extractor
from services.state.adopting import report_of
from services.state.changes import CurrentModel, Loaded, Training
from services.state.extraction import retry_extraction
from services.state.rollback import RollbackOrder, Target, WithdrawalOrder, roll_back, withdraw
from services.state.swap import fold
from services.state.transitions import Stage
from shared.contract.errors import PermanentError
from shared.contract.events import EVENTS, EVENTS_EXCHANGE, Event, TrainingEvent
from shared.contract.identity import ModelRef
from shared.contract.rights import rights_of
from shared.contract.topology import topology
from shared.replicate.training import Training as ReplicatesTraining
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Claim, Origin
from tests.fakes import FakeReplicate
from tests.state import DESTINATION, NOON, model_of, ready, replayed, succeeded

#: Fields that a made-up event leaves at their default on purpose.
LEFT_OUT = {"extraction.failed.v1": {"request_id"}, "model.activated.v1": {"cause"}}
PUBLIC = [key for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE]
LOG = "step 1/10"
TRAINING = Training(UUID(int=1), "t1", "ada", 1, DESTINATION, "TOK", Stage.REPLACED)
CURRENT = CurrentModel(2, UUID(int=2), model_of("t2"))


def missing(events: Iterable[Event]) -> dict[str, set[str]]:
    """The fields that *events* have only by default, by event."""
    left = {event.key: type(event).model_fields.keys() - event.model_fields_set for event in events}
    return {key: fields for key, fields in left.items() if fields}


def of_state() -> Iterator[Event]:
    requested = Training(UUID(int=1), "t1", "ada", 1, DESTINATION, "TOK", Stage.REQUESTED)
    target = Target(TRAINING, "t1", model_of("t1"))
    for changes in (
        fold([replayed(ready("t1"))], Loaded([requested], {}), now=NOON),
        fold([ready("t1")], Loaded([requested], {"ada": CURRENT}), now=NOON),
        roll_back(RollbackOrder("ada", None, "why", "olga"), CURRENT, target, generation=3, now=NOON),
        withdraw(WithdrawalOrder("ada", "why", "olga"), CURRENT, target, generation=3, now=NOON),
        retry_extraction(replace(TRAINING, stage=Stage.UNVERIFIED), request_id=UUID(int=3), now=NOON),
    ):
        yield from (each.envelope.event for each in changes.outbox)


async def test_state_fills_every_field_of_its_events():
    events = list(of_state())

    assert {event.key for event in events} == {
        "extraction.requested.v1",
        "model.activated.v1",
        "model.reverted.v1",
        "model.superseded.v1",
        "model.withdrawn.v1",
        "replay.settled.v1",
    }
    assert missing(events) == {}, "fill them in services/state: changes.py, swap.py, rollback.py or extraction.py"


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_state_may_publish_all_that_it_makes(status):
    ended = ReplicatesTraining.model_validate({"id": "t1", "status": status, "output": {}})
    rights = rights_of("state", topology(()))

    reported = report_of(ended, Claim(UUID(int=1), DESTINATION, None))

    assert reported is not None
    for event in (*of_state(), reported):
        assert re.fullmatch(rights.write, event.exchange)
        assert re.fullmatch(rights.topics[event.exchange], event.key), event.key


async def test_the_extractor_fills_every_field_of_its_events():
    async def verify(ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
        return ("exists",)

    extractor = Extractor(FakeReplicate(), verify, monotonic=lambda: 0.0)
    envelope = succeeded("t1", destination=DESTINATION, output={"version": str(model_of("t1"))})

    events = [*await extractor.handle(envelope), *extractor.on_dead_letter(envelope, PermanentError("no"))]

    assert [event.key for event in events] == ["model.ready.v1", "extraction.failed.v1"]
    assert missing(events) == {}, "fill them in services/extractor/handler.py"


@pytest.mark.parametrize("status", ["starting", "processing", "succeeded", "failed", "canceled"])
def test_the_receiver_fills_every_field_of_its_events(status):
    training = ReplicatesTraining.model_validate({"id": "t1", "status": status, "logs": LOG})

    event = translate(training, Origin(), size_bytes=0)

    assert isinstance(event, TrainingEvent)
    left = {"training.progressed.v1": {"source"}} if status == "processing" else {}
    assert missing([event]) == left, "fill them in shared/replicate/translate.py"


@pytest.mark.parametrize("key", PUBLIC)
def test_a_made_up_event_has_every_field(key):
    story = Story(
        user_id="ann", training_id="t1", destination=DESTINATION, version=None, generation=1, error="no version"
    )
    trigger = Trigger(key.removesuffix(".v1"))

    *_, event = story.events([trigger])

    left = {key: LEFT_OUT[key]} if key in LEFT_OUT else {}
    assert missing([event]) == left, "fill them in services/cli/events/made_up.py"
