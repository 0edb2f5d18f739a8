"""The extractor: a training that succeeded becomes a model that works, or an error that says why not."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.extractor.errors import DoesNotWork, NoModel, NotThereYet
from services.extractor.handler import Extractor, NotSucceeded
from services.extractor.verify import Gate
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import DependencyDown, Malformed, PermanentError
from shared.contract.events import (
    Event,
    ExtractionFailed,
    ExtractionRequested,
    ModelReady,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.limits import OUTPUT_BYTES
from shared.contract.values import Evidence, Retries
from shared.replicate.errors import NotThere
from tests.fakes import FakeReplicate, Policy, look

TRAINING = "yhyxz6wh8nrme0cm2cqr2yxkqc"
OUR_REF = UUID("0193f0c0-0000-7000-8000-000000000001")
DESTINATION = ModelName("acme", "u-42")
MODEL = ModelRef("acme", "u-42", "9" * 64)
OTHER = ModelRef("acme", "u-42", "8" * 64)
OUTPUT = {"version": str(MODEL), "weights": "https://replicate.delivery/xezq/abc/trained_model.tar"}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture
def replicate() -> FakeReplicate:
    replicate = FakeReplicate()
    replicate.add_version(MODEL)
    return replicate


@pytest.fixture
def extractor(replicate: FakeReplicate) -> Extractor:
    seconds = iter(range(0, 1000, 3))
    return Extractor(
        replicate, Gate(replicate, Policy("schema"), find_flaw=look).verify, monotonic=lambda: next(seconds)
    )


def enveloped(event: Event) -> Envelope:
    return wrap(event, source="test", now=NOW)


def succeeded(**fields: Any) -> Envelope:
    known = {"training_id": TRAINING, "ref": OUR_REF, "destination": DESTINATION, "output": OUTPUT}
    return enveloped(TrainingSucceeded(**{**known, **fields}))


def requested(**fields: Any) -> Envelope:
    known = {"training_id": TRAINING, "ref": OUR_REF, "destination": DESTINATION, "request_id": UUID(int=7)}
    return enveloped(ExtractionRequested(**{**known, **fields}))


async def model_of(extractor: Extractor, envelope: Envelope) -> ModelRef:
    (event,) = await extractor.handle(envelope)
    assert isinstance(event, ModelReady)
    return event.model


async def test_a_model_that_works_is_ready_and_says_why(extractor):
    events = await extractor.handle(succeeded())

    (event,) = events
    assert event == ModelReady(
        training_id=TRAINING,
        ref=OUR_REF,
        model=MODEL,
        evidence=Evidence(shape=event.evidence.shape, checks=("exists", "schema"), seconds=3),
    )
    assert event.evidence.shape


async def test_a_model_found_after_retries_says_so(extractor):
    retries = Retries(attempt=3, first_failed_at=NOW, last_error="not_there_yet")

    (ready,) = await extractor.handle(replace(succeeded(), retries=retries))

    assert ready.evidence.retries == retries


@pytest.mark.parametrize("event", [succeeded, requested])
async def test_what_becomes_of_a_training_names_its_user(event, extractor):
    (ready,) = await extractor.handle(event(user_id="ada", output=OUTPUT))
    (failed,) = extractor.on_dead_letter(event(user_id="ada"), PermanentError("no"))

    assert (ready.user_id, failed.user_id) == ("ada", "ada")


async def test_a_user_that_is_not_proved_is_left_out(extractor):
    (ready,) = await extractor.handle(succeeded())

    assert ready.user_id is None


async def test_the_same_training_twice_is_the_same_event(extractor):
    (once,) = await extractor.handle(succeeded())
    (twice,) = await extractor.handle(succeeded(recovered=True))

    assert once.id == twice.id


async def test_a_foreign_webhook_names_its_model_but_no_destination(extractor):
    (event,) = await extractor.handle(succeeded(ref=None, destination=None))

    assert (event.ref, event.model) == (None, MODEL)


@pytest.mark.parametrize(
    "output", [None, {}, {"version": "..."}, {"version": "acme/u-42"}, {"version": f"acme/u-43:{'9' * 64}"}, [1]]
)
async def test_an_output_that_names_no_model_of_ours_is_refused(extractor, output):
    with pytest.raises(NoModel):
        await extractor.handle(succeeded(output=output))


async def test_a_version_that_is_not_there_yet_is_a_matter_of_time(extractor, replicate):
    replicate.versions.clear()

    with pytest.raises(NotThereYet):
        await extractor.handle(succeeded())


async def test_an_output_too_large_to_carry_is_fetched(extractor, replicate):
    replicate.add_training(TRAINING, output=OUTPUT)

    assert await model_of(extractor, succeeded(output=None, output_omitted_bytes=2_000_000)) == MODEL


async def test_half_a_version_is_looked_up(extractor, replicate):
    replicate.add_version(OTHER)

    assert await model_of(extractor, succeeded(output={"version": f"acme/u-42:{'9' * 8}"})) == MODEL


@pytest.mark.parametrize(("version", "looked_up"), [(f":{'9' * 64}", False), (f":{'9' * 8}", False), ("", True)])
async def test_what_the_output_says_nothing_of_is_told_apart(extractor, replicate, version, looked_up):
    replicate.versions[MODEL] = replicate.versions[MODEL].model_copy(update={"created_at": NOW})

    (event,) = await extractor.handle(succeeded(output={"version": f"acme/u-42{version}"}, started_at=NOW))

    assert event.evidence.looked_up is looked_up


async def test_half_a_version_of_a_missing_model_is_retried(extractor, replicate):
    replicate.versions.clear()

    with pytest.raises(NotThereYet):
        await extractor.handle(succeeded(output={"version": f"acme/u-42:{'9' * 8}"}))


async def test_half_a_version_that_is_not_listed_may_still_be(extractor):
    with pytest.raises(NotThereYet, match="77777777"):
        await extractor.handle(succeeded(output={"version": f"acme/u-42:{'7' * 8}"}))


async def test_half_a_version_that_fits_several_is_refused(extractor, replicate):
    replicate.add_version(ModelRef("acme", "u-42", "9" * 8 + "0" * 56))

    with pytest.raises(NoModel):
        await extractor.handle(succeeded(output={"version": f"acme/u-42:{'9' * 8}"}))


async def test_a_request_asks_replicate_again(extractor, replicate):
    replicate.add_training(TRAINING, output=OUTPUT)

    events = await extractor.handle(requested(output={"version": "broken"}))

    (event,) = events
    assert (event.training_id, event.ref, event.model) == (TRAINING, OUR_REF, MODEL)


async def test_a_redelivery_uses_memory_and_a_new_request_does_not(replicate):
    extractor = Extractor(replicate, Gate(replicate, Policy("predict"), find_flaw=look).verify, monotonic=lambda: 0)
    replicate.will_say, works = [{"status": "failed", "error": "no weights"}], replicate.will_say
    for _ in range(2):
        with pytest.raises(DoesNotWork):
            await extractor.handle(succeeded())
    replicate.will_say = works
    runs = len(replicate.inputs)

    events = await extractor.handle(requested(output=OUTPUT))

    assert (runs, len(events), len(replicate.inputs)) == (1, 1, 2)


async def test_a_request_reads_an_output_too_large_to_carry(extractor, replicate):
    replicate.add_training(TRAINING, output={**OUTPUT, "log": "x" * OUTPUT_BYTES})

    assert await model_of(extractor, requested()) == MODEL


async def test_a_deleted_output_is_taken_from_the_event(extractor, replicate):
    replicate.add_training(TRAINING, output=None, data_removed=True)

    assert await model_of(extractor, requested(output=OUTPUT)) == MODEL


async def test_so_is_a_training_that_replicate_has_forgotten(extractor):
    assert await model_of(extractor, requested(output=OUTPUT)) == MODEL


async def test_a_missing_training_without_output_is_retried(extractor):
    with pytest.raises(NotThere):
        await extractor.handle(requested())


async def test_a_training_whose_output_is_gone_has_no_model(extractor, replicate):
    replicate.add_training(TRAINING, output=None)

    with pytest.raises(NoModel):
        await extractor.handle(requested())


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted", "paused"])
async def test_a_request_for_an_unsuccessful_training_is_refused(extractor, replicate, status):
    replicate.add_training(TRAINING, status=status, output=OUTPUT)

    with pytest.raises(NotSucceeded, match=status):
        await extractor.handle(requested(output=OUTPUT))


@pytest.mark.parametrize("status", ["starting", "processing"])
async def test_an_api_that_lags_behind_the_webhook_is_retried(extractor, replicate, status):
    replicate.add_training(TRAINING, status=status)

    with pytest.raises(NotThereYet, match=status):
        await extractor.handle(requested(output=OUTPUT))


@pytest.mark.parametrize("envelope", [succeeded(output_omitted_bytes=1), requested(), succeeded()])
async def test_while_replicate_is_away_nothing_is_decided(extractor, replicate, envelope):
    replicate.next_error = DependencyDown("503")

    with pytest.raises(DependencyDown):
        await extractor.handle(envelope)


async def test_another_event_is_a_mistake(extractor):
    with pytest.raises(Malformed):
        await extractor.handle(enveloped(TrainingStarted(training_id=TRAINING)))


@pytest.mark.parametrize(("envelope", "request_id"), [(succeeded(), None), (requested(), UUID(int=7))])
async def test_giving_up_is_told_with_the_errors_own_code(extractor, envelope, request_id):
    events = extractor.on_dead_letter(envelope, NotThereYet("get version: 404\x00"))

    assert events == [
        ExtractionFailed(
            training_id=TRAINING,
            ref=OUR_REF,
            request_id=request_id,
            error="version_not_there_yet",
            detail="get version: 404",
        )
    ]


async def test_an_error_that_nobody_foresaw_is_told_by_its_name_only(extractor):
    (event,) = extractor.on_dead_letter(succeeded(), ValueError("postgresql://user:password@host"))

    assert (event.error, event.detail) == ("unexpected", "ValueError")


async def test_a_detail_is_never_too_long_to_travel(extractor):
    (event,) = extractor.on_dead_letter(succeeded(), NotThereYet("x" * 10_000))

    assert len(event.detail) == 4096


async def test_nothing_is_told_of_a_message_that_was_none_of_ours(extractor):
    assert extractor.on_dead_letter(enveloped(TrainingStarted(training_id=TRAINING)), Malformed("x")) == []


@pytest.mark.parametrize("output", ["9" * 64, {"version": "9" * 64}, "9" * 8])
async def test_a_version_without_a_model_needs_the_destination(extractor, output):
    (event,) = await extractor.handle(succeeded(output=output, destination=None, ref=None))

    assert isinstance(event, ExtractionFailed)
    assert (event.error, event.ref, event.request_id) == ("destination_unknown", None, None)
    assert output if isinstance(output, str) else output["version"] in event.detail


async def test_what_was_not_asked_of_replicate_is_no_answer_of_its(extractor):
    asked = await extractor.handle(succeeded())
    unasked = await extractor.handle(succeeded(output="9" * 64, destination=None, ref=None))

    assert extractor.is_answer(asked)
    assert not extractor.is_answer(unasked)


async def test_where_the_destination_is_known_a_version_is_enough(extractor):
    assert await model_of(extractor, succeeded(output=MODEL.version)) == MODEL


def test_the_same_failure_of_another_try_is_another_fact():
    first, again, twice = (
        ExtractionFailed(training_id=TRAINING, error="no_version", detail="no", request_id=request_id)
        for request_id in (None, UUID(int=7), UUID(int=8))
    )

    assert len({first.id, again.id, twice.id}) == 3
