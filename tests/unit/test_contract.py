"""What services say to each other: names, events, envelopes, retries, queues."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary_event
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.contract.answers import kind_in, said_in
from shared.contract.envelope import Envelope, decode, wrap
from shared.contract.errors import Malformed, PermanentError, TransientError
from shared.contract.events import (
    EVENTS,
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef, TrainingId, TrainingName, UserId, parse_ref
from shared.contract.retry import DELAYS, UNKNOWN_ERROR_ATTEMPTS, DeadLetter, RetryIn, next_step
from shared.contract.topology import (
    DEAD_EXCHANGE,
    DEAD_QUEUE,
    DELIVERIES_QUEUE,
    EXTRACTOR_QUEUE,
    STATE_QUEUE,
    delay_name,
    topology,
)
from shared.contract.values import Evidence, Retries

NOW = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)
VERSION = "925da5f563c07bb620a3bf3cc2185079b1cfc7d62f47a9c234e67dbc36eab738"
REF = ModelRef("acme", "u-42", VERSION)
REF_ID = UUID("0193f0c0-0000-7000-8000-00000000000a")
HEADERS_OF_STARTED = wrap(TrainingStarted(training_id="abc"), source="test", now=NOW).headers()
READY = ModelReady(training_id="abc", model=REF, evidence=Evidence(shape="version", checks=("exists",), seconds=1.5))


def on_the_wire(event: Event) -> Envelope:
    envelope = wrap(event, source="test", now=NOW)
    return decode(envelope.headers(), "application/json", envelope.body())


@pytest.mark.parametrize(
    "text",
    ["acme/u-42", "90995055/360", "a/b", "river-9/portrait_flux", "acme/wan2.1-lora_v1.0", "a--b/c", "a/" + "b" * 128],
)
def test_a_model_name_is_read_and_written_alike(text: str):
    assert str(ModelName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "acme", "acme/", "/u", "Acme/u", "acme/u/v", "acme/../u", "../..", "acme/-u", "acme/u-", "acme/u\n", " acme/u",
     "acme/ü", "\u0430cme/u", "acme/u:x", "a.b/c", "acme/u\x00", "acme/" + "b" * 129, "a" * 65 + "/b"],
)  # fmt: skip
def test_what_is_no_model_name_is_refused(text: str):
    assert ModelName.parse(text) is None


@pytest.mark.parametrize("version", [VERSION[:-1], VERSION + "0", VERSION.upper(), "g" * 64, "", VERSION + "\n"])
def test_a_version_is_sixty_four_lower_case_hex_digits(version: str):
    assert ModelRef.parse(f"acme/u-42:{version}") is None
    assert ModelName("acme", "u-42").at(version) is None


@given(st.text())
def test_an_accepted_model_ref_is_written_unchanged(text: str):
    ref = ModelRef.parse(text)

    assert ref is None or str(ref) == text


@pytest.mark.parametrize("user", ["u", "user 42", "auth0|abc", "ü", "a" * 200])
def test_a_user_is_whatever_the_product_prints(user: str):
    assert TypeAdapter(UserId).validate_python(user) == user


@pytest.mark.parametrize("user", ["", "a" * 201, "a\x00", "a\n", "\ud800", "\u202e"])
def test_what_can_not_be_printed_is_no_user(user: str):
    with pytest.raises(ValidationError):
        TypeAdapter(UserId).validate_python(user)


@pytest.mark.parametrize("training", ["", "a/b", "..", "a b", "a\n", "-a", "a" * 129])
def test_a_training_id_is_safe_in_a_path(training: str):
    with pytest.raises(ValidationError):
        TypeAdapter(TrainingId).validate_python(training)


@pytest.mark.parametrize(
    "spelling",
    [str(REF_ID), str(REF_ID).upper(), REF_ID.hex, REF_ID.hex.upper(), f"0-1{REF_ID.hex[2:]}", f"{REF_ID.hex}-"],
)
def test_no_training_id_looks_like_a_ref(spelling: str):
    with pytest.raises(ValidationError, match="looks like a ref"):
        TypeAdapter(TrainingId).validate_python(spelling)
    with pytest.raises(Malformed):
        decode(HEADERS_OF_STARTED, "application/json", json.dumps({"training_id": spelling}).encode())
    assert TypeAdapter(TrainingName).validate_python(spelling) == spelling
    assert parse_ref(spelling) == REF_ID


@pytest.mark.parametrize("name", ["gm3qorzdhgbfurvjtvhg6dckhu", "a" * 31, "a" * 33, "a" * 31 + "_", "g" + "a" * 31])
def test_what_is_no_ref_is_a_training_id(name: str):
    assert TypeAdapter(TrainingId).validate_python(name) == name
    assert parse_ref(name) is None


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_every_event_is_described_and_named_by_its_key(event: type[Event]):
    assert event.__doc__
    assert event.key.endswith(".v1")
    assert event.key.replace(".", "") == f"{event.__name__.lower()}v1"


def test_an_event_comes_back_from_the_wire_as_it_was():
    back = on_the_wire(READY)

    assert back.event == READY
    assert back.id == str(READY.id)
    assert (back.source, back.time) == ("/modelswap/test", NOW)


def test_what_is_on_the_wire_is_a_cloud_event_to_others():
    envelope = wrap(READY, source="extractor", now=NOW)

    theirs = from_binary_event(RabbitMQMessage(envelope.headers(), "application/json", envelope.body()))

    assert theirs.get_id() == envelope.id
    assert theirs.get_type() == "dev.modelswap.model.ready.v1"
    assert theirs.get_source() == "/modelswap/extractor"
    assert theirs.get_time() == NOW
    assert theirs.get_data() == json.loads(envelope.body())


def test_a_structured_cloud_event_is_understood():
    envelope = wrap(READY, source="test", now=NOW)
    attributes = {name.removeprefix("ce-"): value for name, value in envelope.headers().items()}
    body = json.dumps({**attributes, "data": json.loads(envelope.body())}).encode()

    back = decode({}, "application/cloudevents+json; charset=utf-8", body)

    assert (back.event, back.id) == (READY, envelope.id)


def test_a_field_of_a_newer_producer_is_ignored():
    envelope = wrap(READY, source="test", now=NOW)
    body = json.dumps({**json.loads(envelope.body()), "mood": "good"}).encode()

    assert decode(envelope.headers(), "application/json", body).event == READY


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ce-type": "dev.modelswap.model.ready.v2"}, "unknown_event"),
        ({"ce-type": "model.ready.v1"}, "unknown_event"),
        ({"ce-id": None}, "malformed"),
        ({"ce-time": "soon"}, "malformed"),
        ({"ce-source": ""}, "malformed"),
    ],
)
def test_what_this_version_does_not_know_is_named_and_refused(change: dict[str, str | None], code: str):
    envelope = wrap(READY, source="test", now=NOW)

    with pytest.raises(Malformed) as refusal:
        decode({**envelope.headers(), **change}, "application/json", envelope.body())

    assert refusal.value.code == code


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"training_id":"a/b"}', b'{"training_id":"abc"}'])
def test_a_body_that_is_not_its_event_is_refused(body: bytes):
    headers = wrap(READY, source="test", now=NOW).headers()

    with pytest.raises(Malformed):
        decode(headers, "application/json", body)


@given(st.binary(), st.dictionaries(st.sampled_from(["ce-type", "ce-id", "ce-time", "ce-source"]), st.text()))
def test_no_message_is_more_than_malformed(body: bytes, headers: dict[str, str]):
    for content_type in ("application/json", "application/cloudevents+json"):
        with pytest.raises(Malformed):
            decode(headers, content_type, body)


def test_trace_context_goes_on_with_what_follows():
    cause = Envelope(READY, "1", "/x", NOW, trace={"traceparent": "00-1-2-01"})

    follows = wrap(TrainingFailed(training_id="abc", reason="x"), source="test", now=NOW, cause=cause)

    assert follows.headers()["traceparent"] == "00-1-2-01"
    assert follows.headers()["ce-causationid"] == "1"


@pytest.mark.parametrize(
    ("headers", "retries"),
    [
        ({}, None),
        ({"x-attempt": 1, "x-failed-at": NOW.isoformat()}, None),
        ({"x-attempt": 3, "x-failed-at": "then"}, None),
        ({"x-attempt": 3, "x-failed-at": NOW.isoformat()}, Retries(attempt=3, first_failed_at=NOW)),
        (
            {"x-attempt": 3, "x-failed-at": NOW.isoformat(), "x-failed-by": "e"},
            Retries(attempt=3, first_failed_at=NOW, last_error="e"),
        ),
    ],
)
def test_a_delivery_says_which_attempt_it_is(headers, retries):
    sent = wrap(READY, source="test", now=NOW)

    received = decode({**sent.headers(), **headers}, "application/json", sent.body())

    assert received.retries == retries
    assert not {"x-attempt", "x-failed-at", "x-failed-by"} & received.headers().keys()


@given(st.text())
def test_an_id_is_the_uuid_of_its_fact(error: str):
    event = ExtractionFailed(training_id="t1", error=error, detail="why")

    text = f"extraction.failed.v1\x1ft1\x1f{error}\x1fwhy"
    assert event.id == str(uuid5(UUID("5b0f6d52-3c1e-5f0e-9a55-6d6f64737770"), text))


def test_the_same_fact_has_the_same_id_and_another_fact_another():
    same = TrainingSucceeded(training_id="abc", output={"version": "x"}, created_at=NOW)
    later = TrainingSucceeded(training_id="abc", output={"version": "x"}, recovered=True)
    other = TrainingSucceeded(training_id="abc", output={"version": "y"})
    progress = [TrainingProgressed(training_id="abc", step=step, total=10, fraction=step / 10) for step in (1, 2)]

    assert same.id == later.id
    assert len({same.id, other.id, *(each.id for each in progress)}) == 4


@pytest.mark.parametrize(
    ("error", "attempt", "step"),
    [
        (TransientError("x"), 1, RetryIn(DELAYS[0], 2)),
        (TransientError("x"), 8, RetryIn(DELAYS[7], 9)),
        (TransientError("x"), 9, DeadLetter()),
        (PermanentError("x"), 1, DeadLetter()),
        (ValueError("x"), UNKNOWN_ERROR_ATTEMPTS - 1, RetryIn(DELAYS[2], UNKNOWN_ERROR_ATTEMPTS)),
        (ValueError("x"), UNKNOWN_ERROR_ATTEMPTS, DeadLetter()),
        (TransientError("x"), 10_000, DeadLetter()),
    ],
)
def test_what_follows_a_failure(error: Exception, attempt: int, step: RetryIn | DeadLetter):
    assert next_step(error, attempt=attempt) == step


def test_an_error_may_allow_fewer_attempts_but_not_more():
    class ImpatientError(TransientError):
        max_attempts = 2

    class StubbornError(TransientError):
        max_attempts = 100

    assert next_step(ImpatientError("x"), attempt=2) == DeadLetter()
    assert next_step(StubbornError("x"), attempt=len(DELAYS) + 1) == DeadLetter()


class Patient(TransientError):
    is_patient = True


def test_a_patient_error_is_retried_with_the_last_delay_for_ever():
    assert next_step(Patient("x"), attempt=8) == RetryIn(DELAYS[7], 9)
    assert next_step(Patient("x"), attempt=10_000) == RetryIn(DELAYS[-1], 10_001)


@pytest.mark.parametrize(("retry_after", "delay"), [(None, DELAYS[0]), (6.0, DELAYS[1])])
def test_what_was_not_tried_counts_as_no_attempt(retry_after, delay):
    class Untried(Patient):
        is_untried = True
        retry_after_seconds = retry_after

    assert next_step(Untried("x"), attempt=1) == RetryIn(delay, 1)


@pytest.mark.parametrize(
    ("retry_after", "attempt", "seconds"), [(1.0, 1, 5), (6.0, 1, 30), (1.0, 3, 120), (3600.0, 1, 3600), (9e9, 1, 3600)]
)
def test_a_retry_waits_as_long_as_it_was_told(retry_after, attempt, seconds):
    error = Patient("x")
    error.retry_after_seconds = retry_after

    step = next_step(error, attempt=attempt, chance=0.0)

    assert step == RetryIn(timedelta(seconds=seconds), attempt + 1)


def test_the_jitter_picks_this_delay_or_the_one_below():
    picked = {next_step(TransientError("x"), attempt=3, chance=chance / 10) for chance in range(10)}

    assert picked == {RetryIn(DELAYS[1], 4), RetryIn(DELAYS[2], 4)}


def test_work_queues_dead_letter_to_the_dead_queue():
    plan = topology()
    queues = {queue.name: queue.arguments for queue in plan.queues}
    dead = {binding.routing_key for binding in plan.bindings if binding.queue == DEAD_QUEUE}

    for name in (EXTRACTOR_QUEUE, STATE_QUEUE):
        assert queues[name]["x-dead-letter-exchange"] == "modelswap.dead"
        assert queues[name]["x-dead-letter-routing-key"] == name
        assert name in dead


def test_every_limit_is_explicit_and_positive():
    for queue in topology().queues:
        limits = {name: value for name, value in queue.arguments.items() if isinstance(value, int)}
        assert {"x-max-length", "x-max-length-bytes"} & limits.keys()
        assert all(value > 0 for value in limits.values())
        if queue.name == DELIVERIES_QUEUE:  # it may hold up nothing: its oldest messages become dead letters
            assert (queue.arguments["x-overflow"], queue.arguments["x-dead-letter-exchange"]) == (
                "drop-head",
                DEAD_EXCHANGE,
            )
        elif queue.arguments["x-queue-type"] not in ("classic", "stream"):
            assert queue.arguments["x-overflow"] == "reject-publish"


def test_every_delay_of_the_ladder_has_its_queue_once():
    plan = topology((timedelta(milliseconds=50), timedelta(seconds=90), timedelta(seconds=90), timedelta(hours=1)))
    names = [queue.name for queue in plan.queues if "delay" in queue.name]

    assert names == ["modelswap.delay.50ms", "modelswap.delay.90s", "modelswap.delay.1h"]
    assert delay_name(timedelta(minutes=10)) == "modelswap.delay.10m"


def test_what_our_own_queues_hear_must_not_get_lost():
    plan = topology()

    only_for_subscribers = {ModelActivated, ModelSuperseded, ModelWithdrawn}
    assert {event for event in EVENTS.values() if not plan.has_binding(event)} == only_for_subscribers


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"detail": "no", "errors": []}', "no"),
        (b'{"detail": "no", "errors": [{"pointer": "#/to", "detail": "is none"}]}', "#/to: is none"),
        (b'{"detail": 7}', '{"detail": 7}'),
        (b"<html>" + b"x" * 1000, "<html>" + "x" * 194),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
    ],
)
def test_a_refusals_reason_is_read_from_any_answer(answer, said):
    assert said_in(answer) == said


@pytest.mark.parametrize(
    ("kind", "known"), [("urn:modelswap:problem:no-model", "no-model"), ("about:blank", None), ("no-model", None)]
)
def test_a_problem_of_ours_is_told_from_anybody_elses(kind, known):
    answer = json.dumps({"type": kind, "title": "no-model", "status": 404, "detail": "no"}).encode()

    assert kind_in(answer) == known
    assert kind_in(b"<html>404</html>") is None
