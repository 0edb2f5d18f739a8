"""What of outside values is carried, and does every message that follows from one fit on the wire?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract.envelope import Envelope, decode, wrap
from shared.contract.errors import Malformed, PermanentError, TransientError
from shared.contract.events import (
    EVENTS,
    Event,
    ExtractionRequested,
    ModelActivated,
    ModelReady,
    ReplaySettled,
    TrainingEvent,
    TrainingSucceeded,
)
from shared.contract.headers import trace_context
from shared.contract.identity import ModelName, ModelRef
from shared.contract.limits import (
    COPY_BYTES,
    EVENT_BYTES,
    FRAME_BYTES,
    FRAME_OVERHEAD_BYTES,
    OUTPUT_BYTES,
    Unpublishable,
)
from shared.contract.retry import RetryIn, next_step
from shared.contract.topology import topology
from shared.contract.values import Cause, Effect, Evidence
from shared.replicate.training import Training, TrainingStatus, decode_training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Origin
from shared.runtime.broker import Delivery, Outgoing, dead_letter, to_message
from shared.runtime.broker.frames import content_header, publish_frames
from shared.runtime.broker.message import retry

NOW = datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC)
PLAN = topology()
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LONGEST_REF = ModelRef("a" * 64, "b" * 128, "c" * 64)
LONGEST_USER = "\N{GRINNING FACE}" * 200
LONGEST_ATTRIBUTE = "\N{GRINNING FACE}" * 255
LONGEST_TEXT = 4096
LONGEST_STATE = f"a={'x' * 254},b={'y' * 253}"
READY = ModelReady(
    training_id="t" * 128,
    ref=UUID(int=1),
    user_id=LONGEST_USER,
    model=LONGEST_REF,
    evidence=Evidence(shape="s" * 200, checks=("exists", "schema", "predict"), seconds=1.5),
)


def check(message: Outgoing) -> None:
    """Raise unless *message* can be published."""
    publish_frames(message, message_id="m" * 32, timestamp=2**40, channel=1, frame_bytes=FRAME_BYTES)


def delivery(headers: Mapping[str, object], body: bytes = b"{}", content_type: str | None = None) -> Delivery:
    return Delivery("modelswap.extractor", 1, "modelswap.training", "k" * 255, headers, content_type, body)


# Trace context


@pytest.mark.parametrize(
    ("parent", "kept"),
    [
        (PARENT, PARENT),
        (PARENT.replace("00-", "01-", 1), PARENT),
        (PARENT.replace("00-", "cc-", 1) + "-what-is.to/come", PARENT),
    ],
)
def test_a_valid_traceparent_is_carried_as_version_00(parent: str, kept: str):
    assert trace_context([parent], []) == {"traceparent": kept}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + " ",
        PARENT + "\n",
        PARENT[:-1],
        "ff" + PARENT[2:],
        "01" + PARENT[2:] + "more",
        "01" + PARENT[2:] + "-" + "x" * 300,
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        PARENT.replace("4b", "٤b"),
        7,
        None,
        b"00",
        [PARENT],
    ],
)
def test_a_malformed_traceparent_is_dropped_with_its_state(parent: object):
    assert trace_context([parent], ["a=1"]) == {}


@pytest.mark.parametrize("parents", [[], [PARENT, PARENT]])
def test_a_traceparent_must_be_given_just_once(parents: list[str]):
    assert trace_context(parents, ["a=1"]) == {}


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1,\tb_-*/=x y!~ , ,tenant@vendor=2", "a=1,b_-*/=x y!~,tenant@vendor=2"),
        (LONGEST_STATE, LONGEST_STATE),
    ],
)
def test_a_valid_tracestate_is_carried(state: str, kept: str):
    assert trace_context([PARENT], [state]) == {"traceparent": PARENT, "tracestate": kept}


@pytest.mark.parametrize(
    "state",
    [
        "",
        ",",
        "b" * 140_000,
        LONGEST_STATE + "y",
        "a",
        "a=",
        "=1",
        "A=1",
        "a=1,a=2",
        "a=\x7f",
        "a=ü",
        "a=b=c",
        "a=1\r\nb: 2",
        ",".join(f"k{number}=1" for number in range(33)),
        7,
        None,
        {"a": 1},
    ],
)
def test_a_malformed_or_long_tracestate_is_dropped_alone(state: object):
    assert trace_context([PARENT], [state]) == {"traceparent": PARENT}


@given(st.text(), st.text(max_size=600))
def test_whatever_is_carried_of_a_trace_is_short_and_printable(parent: str, state: str):
    for kept in (trace_context([parent], [state]), trace_context([PARENT], [state])):
        assert all(value.isascii() and value.isprintable() and len(value) <= 512 for value in kept.values())


# Attributes of events


@pytest.mark.parametrize("name", ["ce-id", "ce-source"])
@pytest.mark.parametrize("value", ["x" * 256, "a\x00", "a\nb", 7, None, b"x", ["x"], True])
def test_an_event_with_a_giant_or_odd_attribute_is_malformed(name: str, value: object):
    envelope = wrap(READY, source="test", now=NOW)

    with pytest.raises(Malformed, match=name[3:]):
        decode(envelope.headers() | {name: value}, "application/json", envelope.body())


@pytest.mark.parametrize("value", ["x" * 130_000, "a\x00", "", 7, b"x", {"a": 1}])
def test_an_odd_cause_mark_or_trace_is_dropped(value: object):
    envelope = wrap(READY, source="test", now=NOW)
    odd = dict.fromkeys(("ce-causationid", "ce-replay", "traceparent", "tracestate"), value)

    back = decode(envelope.headers() | odd, "application/json", envelope.body())

    assert (back.causation_id, back.replay, back.trace) == (None, None, {})


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-14:00",
        "x" * 100_000,
    ],
)
def test_a_time_that_is_none_everywhere_is_malformed(time: str):
    envelope = wrap(READY, source="test", now=NOW)

    with pytest.raises(Malformed, match="time"):
        decode(envelope.headers() | {"ce-time": time}, "application/json", envelope.body())


@pytest.mark.parametrize("body", [b"[]", b"[1]", b'"x"', b"7", b"null", b"{}", b"[" * 100_000])
def test_a_structured_event_that_is_no_object_is_malformed(body: bytes):
    with pytest.raises(Malformed):
        decode({}, "application/cloudevents+json", body)


def test_an_event_larger_than_a_message_may_be_is_malformed():
    envelope = wrap(TrainingSucceeded(training_id="a"), source="test", now=NOW)

    with pytest.raises(Malformed) as refusal:
        decode(envelope.headers(), "application/json", envelope.body() + b" " * EVENT_BYTES)

    assert refusal.value.code == "message_too_large"


@pytest.mark.parametrize("output", [b'"' + b"x" * OUTPUT_BYTES + b'"', b"[" + b"1e15," * 100_000 + b"1]"])
def test_an_output_too_large_to_go_on_is_malformed(output: bytes):
    envelope = wrap(TrainingSucceeded(training_id="a"), source="test", now=NOW)

    with pytest.raises(Malformed, match=f"takes more than {OUTPUT_BYTES} bytes"):
        decode(envelope.headers(), "application/json", b'{"training_id":"a","output":%s}' % output)


def test_an_output_that_encodes_too_large_is_left_out():
    body = b'{"id":"a","status":"succeeded","output":[' + b"1e15," * 100_000 + b"1]}"

    event = translate(decode_training(body), Origin(), size_bytes=len(body))

    assert isinstance(event, TrainingSucceeded)
    assert event.output is None
    assert event.output_omitted_bytes


@pytest.mark.parametrize("status", TrainingStatus)
def test_no_text_of_a_webhook_is_too_long_for_its_event(status):
    fields = {name for event in EVENTS.values() if issubclass(event, TrainingEvent) for name in event.model_fields}
    texts = dict.fromkeys({*fields, *Training.model_json_schema()["properties"]}, "x" * 100_000)
    body = json.dumps({**texts, "input": texts, "id": "a", "status": status, "output": None})

    event = translate(decode_training(body.encode()), Origin())

    too_long = {name for name, value in event if isinstance(value, str) and len(value) > LONGEST_TEXT}
    assert too_long == set(), "make them empty in shared/replicate/training.py"


def test_the_text_of_an_error_is_bounded_and_can_be_stored():
    error = PermanentError("a\x00\ud800" + "x" * 1_000_000)

    assert str(error) == "a?" + "x" * 4093


# What follows from a message fits


def largest(event: Event) -> Outgoing:
    """*event* in the largest envelope that `decode` accepts."""
    cause = Envelope(
        event,
        id=LONGEST_ATTRIBUTE,
        source=LONGEST_ATTRIBUTE,
        time=NOW,
        causation_id=LONGEST_ATTRIBUTE,
        trace={"traceparent": PARENT, "tracestate": LONGEST_STATE},
        replay=LONGEST_ATTRIBUTE,
    )
    accepted = decode(cause.headers(), "application/json", cause.body())
    return to_message(wrap(event, source="test", now=NOW, cause=accepted), PLAN)


@given(
    user=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200) | st.just(LONGEST_USER),
    trigger=st.text(max_size=200) | st.just("\N{GRINNING FACE}" * 200),
)
def test_where_model_ready_fits_model_activated_fits(user: str, trigger: str):
    about = {"training_id": READY.training_id, "ref": UUID(int=1), "model": LONGEST_REF, "user_id": user}
    activated = ModelActivated.model_validate(
        {**about, "generation": 2**63 - 1, "previous": LONGEST_REF, "trigger_word": trigger, "cause": Cause.ROLLBACK}
    )

    check(largest(READY))
    check(largest(activated))


def test_an_accepted_outputs_extraction_can_be_requested():
    accepted = TrainingSucceeded(
        training_id="t" * 128, user_id=LONGEST_USER, output="x" * (OUTPUT_BYTES - 2), error="\x01" * 4096
    )
    again = ExtractionRequested(
        training_id="t" * 128,
        request_id=UUID(int=1),
        ref=UUID(int=1),
        destination=ModelName("a" * 64, "b" * 128),
        user_id=LONGEST_USER,
        output=accepted.output,
        trainer_version="v" * 400,
        started_at=NOW,
    )

    check(largest(accepted))
    check(largest(again))


def test_the_outcome_of_a_replay_fits_with_the_longest_mark():
    settled = ReplaySettled(
        training_id="t" * 128,
        replay=LONGEST_ATTRIBUTE,
        settled_by=LONGEST_ATTRIBUTE,
        event="e" * 255,
        error="e" * 4096,
        effect=Effect.SWAPPED,
        user_id=LONGEST_USER,
        stage="active",
        generation=2**63 - 1,
        model=LONGEST_REF,
        previous=LONGEST_REF,
    )

    check(largest(settled))


#: Every type that the client reads from a message's headers, and some texts that are nearly a frame long.
_texts = st.text(max_size=40) | st.builds(lambda text, size: text * size, st.text(max_size=3), st.integers(0, 40_000))
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats()
    | _texts
    | st.binary(max_size=200)
    | st.binary(max_size=20).map(bytearray)
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(allow_nan=False).map(Decimal),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_names = (
    st.sampled_from(
        ["ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "ce-causationid", "ce-replay", "traceparent",
         "tracestate", "x-attempt", "x-failed-at", "x-failed-by", "x-death", "x-dead-text", "CC", "BCC"]
    )
    | st.text(max_size=20)
    | st.text(min_size=100, max_size=255)
)  # fmt: skip


@settings(max_examples=40)
@given(headers=st.dictionaries(_names, _values, max_size=60), content_type=st.none() | st.text(max_size=300))
def test_a_copy_fits_whatever_the_headers_of_the_original(headers: dict[str, object], content_type: str | None):
    given_up = delivery(headers, content_type=content_type)
    error = TransientError("\N{GRINNING FACE}" * 100_000)
    step = next_step(error, attempt=1)
    assert isinstance(step, RetryIn)

    for copy in (dead_letter(given_up, error, now=NOW), retry(given_up, step, error, now=NOW)):
        check(copy)
        assert not {"CC", "BCC", "x-death"} & copy.headers.keys()


@settings(max_examples=40)
@given(headers=st.dictionaries(_names, _values, max_size=60), kind=st.sampled_from(sorted(EVENTS)), body=_values)
def test_a_message_is_an_event_or_malformed_whatever_it_says(headers: dict[str, object], kind: str, body: object):
    said = json.dumps(body, default=str).encode()
    known = {"ce-type": f"dev.modelswap.{kind}", "ce-id": "1", "ce-source": "x", "ce-time": NOW.isoformat()}
    structured = json.dumps({"type": f"dev.modelswap.{kind}", **headers, "data": body}, default=str).encode()

    for given_headers in (headers, headers | known, known | headers):
        for content_type, given_body in (("application/json", said), ("application/cloudevents+json", structured)):
            try:
                envelope = decode(given_headers, content_type, given_body)
            except Malformed:
                continue
            check(to_message(wrap(READY, source="test", now=NOW, cause=envelope), PLAN))


def test_what_a_letter_keeps_of_giant_headers_begins_with_ours():
    foreign = {f"a-{number:03}": "x" * 4000 for number in range(30)}
    ours = {"ce-id": "1", "ce-type": "t", "traceparent": PARENT, "x-attempt": 3}

    letter = dead_letter(delivery(foreign | ours), PermanentError("no"), now=NOW)

    assert ours.items() <= letter.headers.items()
    assert letter.headers["a-000"] == "x" * 4000
    assert "a-029" not in letter.headers


# Measuring


@pytest.mark.parametrize("size", [FRAME_BYTES, 140_000])
def test_headers_larger_than_a_frame_are_refused(size: int):
    message = Outgoing("", "q", b"", headers={"tracestate": "x" * size})

    with pytest.raises(Unpublishable, match=f"headers of a message to queue q take {size}"[:40]) as refusal:
        check(message)

    assert refusal.value.code == "message_too_large"


def test_headers_fit_up_to_the_last_byte():
    def of(size: int) -> Outgoing:
        return Outgoing("", "q", b"", headers={"t": "x" * size})

    size = FRAME_BYTES - FRAME_OVERHEAD_BYTES - len(content_header(of(0), message_id="m" * 32, timestamp=2**40))
    check(of(size))
    with pytest.raises(Unpublishable):
        check(of(size + 1))


def test_the_body_of_an_event_is_smaller_than_that_of_a_copy():
    event = Outgoing("", "q", b"x" * (EVENT_BYTES + 1))
    check(replace(event, body=event.body[1:]))
    check(replace(event, body_limit_bytes=COPY_BYTES))

    with pytest.raises(Unpublishable, match="1048577 bytes"):
        check(event)


@pytest.mark.parametrize("value", [object(), 2**64, b"x", "\ud800" * 40_000, [1e300]])
def test_a_value_that_amqp_does_not_know_is_the_messages_fault(value: object):
    with pytest.raises(Unpublishable) as refusal:
        check(Outgoing("", "q", b"", headers={"a": value, "pad": "x" * 40_000}))

    assert refusal.value.code == "message_unencodable"
