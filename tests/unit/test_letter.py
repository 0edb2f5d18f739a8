"""What was a dead message, whatever it is? And which letters have one cause?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ops.letters.archive import in_parts
from services.ops.letters.fingerprint import fingerprint
from services.ops.letters.letter import ReplayMark, editable, to_dead_letter
from shared.contract.envelope import REPLAY_HEADER, wrap
from shared.contract.errors import PermanentError
from shared.contract.events import Event, ModelReady, TrainingSucceeded
from shared.contract.identity import ModelRef
from shared.contract.retry import RetryIn
from shared.contract.text import is_storable
from shared.contract.topology import DEAD_EXCHANGE, EXTRACTOR_QUEUE, RECEIVER, STATE_QUEUE, topology
from shared.contract.values import Evidence
from shared.runtime.broker import Delivery, Outgoing, dead_letter, to_message
from shared.runtime.broker.message import retry

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
REPLAY = UUID(int=7)
READY = ModelReady(
    training_id="t1",
    model=ModelRef("acme", "ada", "a" * 64),
    evidence=Evidence(shape="plain_text", checks=("exists",), seconds=1.5),
)


@dataclass(frozen=True)
class Message:
    body: bytes = b"{}"
    headers: dict[str, Any] = field(default_factory=dict)
    exchange: str = DEAD_EXCHANGE
    routing_key: str = EXTRACTOR_QUEUE
    content_type: str | None = "application/json"


def dead(
    error: Exception, headers: Mapping[str, Any] | None = None, *, attempt: int = 3, body: bytes | None = None
) -> Message:
    """What the runtime makes of a delivery to the extractor that failed with *error*."""
    event = TrainingSucceeded(training_id="t1", output={"version": "x"})
    published = to_message(wrap(event, source="receiver", now=NOON), topology())
    delivery = Delivery(
        queue=EXTRACTOR_QUEUE,
        tag=1,
        exchange=published.exchange,
        routing_key=published.routing_key,
        headers={**published.headers, "x-attempt": attempt, "x-failed-at": NOON.isoformat(), **(headers or {})},
        content_type=published.content_type,
        body=published.body if body is None else body,
    )
    message = dead_letter(delivery, error, now=NOON + timedelta(hours=1))
    return Message(message.body, dict(message.headers), message.exchange, message.routing_key, message.content_type)


def test_a_letter_says_what_the_message_was_and_how_it_failed():
    message = dead(PermanentError("no version in the output", code="no_version"))

    letter = to_dead_letter(message, now=NOON + timedelta(days=1))

    failure = letter.failure
    assert letter.body == message.body
    assert letter.event_type == "training.succeeded.v1"
    assert letter.event_id == message.headers["ce-id"]
    assert letter.training_id == "t1"
    assert (failure.queue, failure.exchange, failure.routing_key) == (
        "modelswap.extractor",
        "modelswap.training",
        "training.succeeded.v1",
    )
    assert (failure.code, failure.kind, failure.text) == ("no_version", "PermanentError", "no version in the output")
    assert failure.traceback.endswith("PermanentError: no version in the output\n")
    assert (failure.attempts, failure.first_at, failure.last_at) == (3, NOON, NOON + timedelta(hours=1))
    assert letter.mark is None


def delivered(message: Outgoing) -> Delivery:
    """Return the delivery of *message* to the extractor."""
    return Delivery(
        queue=EXTRACTOR_QUEUE,
        tag=1,
        exchange=message.exchange,
        routing_key=message.routing_key,
        headers=message.headers,
        content_type=message.content_type,
        body=message.body,
    )


def test_first_failure_survives_retries():
    step = partial(RetryIn, timedelta(seconds=5))
    message = to_message(
        wrap(TrainingSucceeded(training_id="t1", output=None), source="receiver", now=NOON), topology()
    )

    for hour in range(3):
        message = retry(delivered(message), step(hour + 2), ValueError("x"), now=NOON + timedelta(hours=hour))
    dead = dead_letter(delivered(message), PermanentError("x"), now=NOON + timedelta(hours=3))
    failure = to_dead_letter(dead, now=NOON + timedelta(days=1)).failure

    assert (failure.attempts, failure.first_at, failure.last_at) == (4, NOON, NOON + timedelta(hours=3))


def test_first_failure_survives_a_crash():
    deaths = [{"reason": "delivery_limit", "queue": STATE_QUEUE, "time": NOON + timedelta(hours=1)}]
    headers = {"x-death": deaths, "x-failed-at": NOON.isoformat()}

    failure = to_dead_letter(Message(headers=headers), now=NOON + timedelta(days=1)).failure

    assert (failure.first_at, failure.last_at) == (NOON, NOON + timedelta(hours=1))


def test_first_failure_defaults_to_the_last_one():
    headers = {"x-dead-queue": STATE_QUEUE, "x-dead-last-failure": NOON.isoformat()}

    failure = to_dead_letter(Message(headers=headers), now=NOON + timedelta(days=1)).failure

    assert (failure.first_at, failure.last_at) == (NOON, NOON)


@pytest.mark.parametrize(
    ("attempt", "expected"), [(-1, 1), (0, 1), (1, 1), (2, 2), (2**31 - 1, 2**31 - 1), ("7", 1), (None, 1)]
)
def test_attempts_below_one_count_as_one(attempt: object, expected: int):
    message = Message(headers={"x-dead-queue": STATE_QUEUE, "x-dead-attempts": attempt})
    delivery = replace(
        delivered(to_message(wrap(READY, source="test", now=NOON), topology())), headers={"x-attempt": attempt}
    )

    assert to_dead_letter(message, now=NOON).failure.attempts == expected
    assert delivery.attempt == expected


def test_its_headers_are_those_with_which_it_was_published():
    letter = to_dead_letter(dead(PermanentError("x"), {"traceparent": "00-1-2-01"}), now=NOON)

    names = json.loads(letter.headers).keys()
    assert {"ce-id", "ce-type", "ce-time", "traceparent"} <= names
    assert not [name for name in names if name.startswith("x-")]


def test_crashed_consumer_leaves_only_rabbitmqs_headers():
    deaths = [
        {
            "count": 1,
            "reason": "delivery_limit",
            "queue": "modelswap.state",
            "time": NOON,
            "exchange": "modelswap.events",
            "routing-keys": ["model.ready.v1"],
        },
        {
            "count": 2,
            "reason": "expired",
            "queue": "modelswap.delay.5s",
            "time": NOON,
            "exchange": "",
            "routing-keys": [],
        },
    ]

    failure = to_dead_letter(Message(headers={"x-death": deaths}), now=NOON + timedelta(days=1)).failure

    assert (failure.code, failure.kind) == ("crashed_too_often", "CrashedTooOften")
    assert (failure.queue, failure.exchange, failure.routing_key) == (
        "modelswap.state",
        "modelswap.events",
        "model.ready.v1",
    )
    assert failure.last_at == NOON


def test_what_nothing_is_known_of_is_a_letter_too():
    letter = to_dead_letter(Message(b"\xff\x00", {}, "", "modelswap.dead", None), now=NOON)

    assert (letter.body, letter.event_id, letter.training_id) == (b"\xff\x00", None, None)
    assert (letter.failure.queue, letter.failure.code, letter.failure.last_at) == ("modelswap.dead", "unknown", NOON)


def test_a_webhook_that_was_set_aside_is_found_by_its_training():
    headers = {"x-dead-queue": "modelswap.receiver", "webhook-id": "msg_1"}

    letter = to_dead_letter(Message(b'{"id": "t9", "status": "odd"}', headers), now=NOON)

    assert (letter.training_id, letter.event_id) == ("t9", "msg_1")


def test_digest_does_not_depend_on_the_failure():
    first, again = dead(PermanentError("x")), dead(ValueError("y"), attempt=9)

    assert to_dead_letter(first, now=NOON).digest == to_dead_letter(again, now=NOON).digest


def test_a_fact_that_was_found_once_more_has_the_same_digest():
    def found(seconds: float, at: datetime) -> Message:
        evidence = Evidence(shape="plain_text", checks=("exists",), seconds=seconds)
        ready = ModelReady(training_id="t1", model=ModelRef("acme", "ada", "a" * 64), evidence=evidence)
        return of_event(ready, at)

    first, again = found(1.5, NOON), found(2.5, NOON + timedelta(hours=1))

    assert first.body != again.body
    assert to_dead_letter(first, now=NOON).digest == to_dead_letter(again, now=NOON).digest


def test_a_training_that_was_reported_twice_has_the_same_digest():
    heard, recovered = (of_event(TrainingSucceeded(training_id="t1", recovered=each), NOON) for each in (False, True))

    assert to_dead_letter(heard, now=NOON).digest == to_dead_letter(recovered, now=NOON).digest


def test_digest_and_fingerprint_are_stable_across_versions():
    letter = to_dead_letter(Message(headers={"x-dead-queue": STATE_QUEUE, "ce-id": "an-id"}, body=b"a body"), now=NOON)

    # Stored digests: other ones would store every dead letter a second time, and part every group in two.
    assert letter.digest == "c2ca9da6352daac081e2b3f521d10a38c0e4eb304d0e5fdb8746da21399199f0"
    assert of("the model acme/ada does not answer") == "4c582961282b8598"


def test_digest_parts_do_not_run_together():
    one = Message(headers={"x-dead-queue": STATE_QUEUE, "ce-id": "a"}, body=b"bc")
    other = Message(headers={"x-dead-queue": STATE_QUEUE, "ce-id": "ab"}, body=b"c")

    assert to_dead_letter(one, now=NOON).digest != to_dead_letter(other, now=NOON).digest
    assert of("x", code="ab", kind="c") != of("x", code="a", kind="bc")


def test_an_id_not_derived_from_the_body_is_ignored():
    first, other = (TrainingSucceeded(training_id="t1", output=output) for output in ("one", "another"))
    forged = replace(of_event(other, NOON), headers=of_event(first, NOON).headers)

    assert to_dead_letter(forged, now=NOON).digest != to_dead_letter(of_event(first, NOON), now=NOON).digest


def of_event(event: Event, at: datetime) -> Message:
    """A dead letter of the state service."""
    published = to_message(wrap(event, source="test", now=at), topology())
    return Message(published.body, {**published.headers, "x-dead-queue": STATE_QUEUE})


@pytest.mark.parametrize(
    "other",
    [
        dead(PermanentError("x"), body=b"{}"),
        dead(PermanentError("x"), {"ce-id": "another"}),
        Message(
            dead(PermanentError("x")).body, {**dead(PermanentError("x")).headers, "x-dead-queue": "modelswap.state"}
        ),
    ],
    ids=["body", "event", "queue"],
)
def test_another_message_has_another_digest(other):
    assert to_dead_letter(other, now=NOON).digest != to_dead_letter(dead(PermanentError("x")), now=NOON).digest


def test_a_replay_leaves_its_mark():
    letter = to_dead_letter(dead(PermanentError("x"), {REPLAY_HEADER: f"{REPLAY}:17"}), now=NOON)

    assert letter.mark == ReplayMark(REPLAY, 17)


@pytest.mark.parametrize("number", ["", "0", "017", "-1", "x", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 19, "9" * 30])
def test_a_mark_is_read_as_it_is_written_and_in_no_other_form(number):
    assert str(ReplayMark.parse(f"{REPLAY}:17")) == f"{REPLAY}:17"
    assert ReplayMark.parse(f"{REPLAY}:{number}") is None


@pytest.mark.parametrize("value", ["", "17", "x:1", f"{REPLAY}", f"{REPLAY.hex}:1", f"{'-' * 36}:1", 7, None])
def test_what_is_no_mark_is_none(value):
    assert ReplayMark.parse(value) is None


# One cause, one group

SAME = [
    (
        "the model acme/ada:3f2a9c0b1d2e3f4a5b6c7d8e9f00112233445566778899aabbccddeeff001122 does not answer",
        "the model shop/bob-2:aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffff0000000011111111 does not answer",
    ),
    ("training 5z7kq1x2v9rma0cn1y8b is not registered", "training q0w9e8r7t6rma0cp1s4dm is not registered"),
    ("out of memory: tried to allocate 20.00 MiB", "out of memory: tried to allocate 512.5 MiB"),
    ("'https://x.example/a.tar' has no version", "'https://y.example/b/c.zip?d=1' has no version"),
    ('unknown status "odd"', 'unknown status "very odd indeed"'),
    ("no answer since 2026-11-24T03:04:05Z", "no answer since 2025-01-02T23:59:59.5Z"),
    (f"ref {UUID(int=1)} is unknown", f"ref {UUID(int=2**127)} is unknown"),
    ("line 3:\n  too long", "line 44: too  long"),
]
DIFFERENT = [
    "the model acme/ada does not answer",
    "training 5z7kq1x2v9rma0cn1y8b is not registered",
    "training 5z7kq1x2v9rma0cn1y8b was canceled",
    "out of memory",
    "out of disk space",
    "Replicate answered 402",
    "Replicate answered 500",
    "Postgres said 23514",
    "Postgres said 22003",
    "no version in the output",
    "no prompt in the input",
    "",
]


def of(text: str, *, queue: str = "q", code: str = "c", kind: str = "K") -> str:
    return fingerprint(queue, code, kind, text)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_cause_is_one_group(one, other):
    assert of(one) == of(other)


def test_two_causes_are_two_groups():
    assert len({of(text) for text in DIFFERENT}) == len(DIFFERENT)


def test_another_queue_code_or_class_is_another_group():
    assert len({of("x"), of("x", queue="r"), of("x", code="d"), of("x", kind="L")}) == 4


# Whatever comes

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.characters(categories=["Cs"])
    | st.binary()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text() | st.sampled_from(
    [
        *("x-death", "ce-id", "ce-type", "ce-replay", "webhook-id", "x-attempt", "x-failed-at", "x-failed-by"),
        *(
            f"x-dead-{name}"
            for name in ("queue", "error", "class", "text", "traceback", "attempts", "first-failure", "last-failure")
        ),
    ]
)
deaths = st.lists(st.dictionaries(st.sampled_from(["reason", "queue", "time", "exchange", "routing-keys"]), values))


def test_an_event_in_structured_mode_says_in_its_body_what_it_is():
    event = wrap(TrainingSucceeded(training_id="t1", output=None), source="receiver", now=NOON)
    attributes = {"id": event.id, "type": f"dev.modelswap.{event.event.key}"}
    body = json.dumps({**attributes, "data": json.loads(event.body())}).encode()

    letter = to_dead_letter(Message(body, content_type="application/cloudevents+json; charset=utf-8"), now=NOON)

    assert (letter.event_type, letter.event_id, letter.training_id) == (event.event.key, event.id, "t1")


@given(
    headers=st.dictionaries(names, values | deaths, max_size=6),
    body=st.binary() | st.sampled_from([b'{"training_id": "\\ud800\\u0000"}', b"[" * 100_000, b'{"id": 1}']),
    routing_key=st.text(),
    content_type=st.none() | st.text(),
)
def test_any_headers_and_bytes_can_be_stored(headers, body, routing_key, content_type):
    letter = to_dead_letter(Message(body, headers, "", routing_key, content_type), now=NOON)

    failure = letter.failure
    texts = [
        *(
            letter.digest,
            letter.fingerprint,
            letter.content_type,
            letter.event_type,
            letter.event_id,
            letter.training_id,
        ),
        *(failure.queue, failure.exchange, failure.routing_key, failure.code, failure.kind, failure.text),
        failure.traceback,
    ]
    assert letter.body == body
    assert all(is_storable(text) for text in texts)
    assert isinstance(json.loads(letter.headers, parse_constant=pytest.fail), dict)
    assert is_storable(json.loads(letter.headers))
    assert 0 < failure.attempts < 2**31
    assert failure.first_at.tzinfo is failure.last_at.tzinfo is UTC


@pytest.mark.parametrize("said", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_everywhere_is_no_time_of_a_failure(said):
    """It would be stored as infinite, and every list with it would be an error."""
    headers = {"x-dead-queue": STATE_QUEUE, "x-dead-first-failure": said, "x-dead-last-failure": said}

    failure = to_dead_letter(Message(b"{}", headers), now=NOON).failure

    assert (failure.first_at, failure.last_at) == (NOON, NOON)


@pytest.mark.parametrize(
    ("body", "is_structured", "what"),
    [
        (b'{"data": {"a": 1}}', True, {"a": 1}),
        (b'{"data": {"a": 1}}', False, {"data": {"a": 1}}),
        (b"{}", False, {}),
        (b'{"data": [1]}', True, None),
        (b"{}", True, None),
        (b"[]", True, None),
        (b"[]", False, None),
        (b"no", True, None),
        (b"[" * 100_000, True, None),
        (b'{"data":' * 100_000, True, None),
    ],
)
def test_only_a_json_object_can_be_edited(body, is_structured, what):
    found = editable(EXTRACTOR_QUEUE, "application/cloudevents+json" if is_structured else "application/json", body)

    assert (found and json.loads(found)) == what


def test_a_webhook_is_edited_whole():
    assert editable(RECEIVER, "application/cloudevents+json", b'{"data": {}}') == '{\n  "data": {}\n}'


@pytest.mark.parametrize("depth", [40, 200, 900])
def test_nested_lists_are_not_indented_to_many_times_their_size(depth):
    lists = ",".join(["[" * depth + "]" * depth] * (100_000 // depth))

    found = editable(EXTRACTOR_QUEUE, "application/json", f'{{"a":[{lists}]}}'.encode())

    assert found is not None
    assert len(found) < 5_000_000
    assert len(json.loads(found)["a"]) == 100_000 // depth


def test_a_large_message_goes_alone():
    small, large = Message(b"x" * 100), Message(b"x" * 5_000_000)

    parts = list(in_parts([small, small, large, small, large, large]))

    assert [[len(each.body) for each in part] for part in parts] == [
        [100, 100],
        [5_000_000],
        [100],
        [5_000_000],
        [5_000_000],
    ]
