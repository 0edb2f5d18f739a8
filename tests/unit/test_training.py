"""Trainings: what is needed is asked for, what is not is soft, what can not be stored as a name is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contract.events import TrainingSucceeded
from shared.replicate.training import NotATraining, Training, TrainingStatus, decode_prediction, decode_training

WEBHOOKS = Path(__file__).parent.parent / "fixtures" / "webhooks"
BODIES = sorted(path for path in WEBHOOKS.glob("*.json"))


def body(**fields: Any) -> bytes:
    return json.dumps({"id": "abc", "status": "succeeded", **fields}).encode()


def sample(name: str) -> Training:
    return decode_training((WEBHOOKS / name).read_bytes())


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_every_sample_is_a_training_with_its_own_id_and_output(path):
    raw = path.read_bytes()

    training = decode_training(raw)

    said = json.loads(raw)
    assert (said["id"], said["status"]) == (training.id, training.status)
    assert said["output"] == training.output
    assert (said["logs"] or "") == training.logs
    assert said["input"] == training.input


def test_a_completed_training_is_read_whole():
    training = sample("07-completed-succeeded.json")

    assert training.status == TrainingStatus.SUCCEEDED
    assert training.trainer is None
    assert training.trainer_version == "e440909d3512c31646ee2e0c7d6f6f4923224863a6a10c494606e79fb5844497"
    assert training.error is None
    assert training.started_at == datetime(2024, 12, 29, 16, 11, 12, 77327, tzinfo=UTC)


def test_nine_digits_of_a_second_are_fine():
    assert sample("03-logs-download.json").started_at is not None


def test_a_date_that_is_none_does_not_sink_a_completion():
    training = sample("19-completed-bad-timestamp.json")

    assert training.started_at is None
    assert training.completed_at is not None


def test_id_and_status_are_all_it_takes():
    training = decode_training(b'{"id": "abc", "status": "starting"}')

    assert training.output is None
    assert training.input == {}
    assert training.logs == ""


@pytest.mark.parametrize(
    "nonsense",
    [None, 0, 1.5, True, "", "nonsense", "2022-04-26T20:00:84Z", "2022-04-26", "9" * 400, [], ["x"], {}, {"x": [1]}],
)
def test_whatever_else_is_nonsense_counts_as_not_there(nonsense):
    names = ("input", "logs", "created_at", "started_at", "completed_at", "metrics", "urls", "data_removed")

    training = decode_training(body(**dict.fromkeys(names, nonsense)))

    assert isinstance(training.input, dict)
    assert isinstance(training.logs, str)
    assert training.created_at is training.started_at is training.completed_at is None


@pytest.mark.parametrize(
    "moment", ["2024-12-29T16:11:12", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", 1735490352, 1735490352.5]
)
def test_a_moment_without_its_place_in_time_is_none(moment):
    assert decode_training(body(started_at=moment)).started_at is None


def test_moments_are_in_utc():
    assert decode_training(body(started_at="2024-12-29T16:11:12+02:00")).started_at == datetime(
        2024, 12, 29, 14, 11, 12, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("logs", "text"), [(None, ""), ("a\nb", "a\nb"), (["a", "b"], "a\nb"), (["a", 1, None], "a"), ("a\x00b", "ab")]
)
def test_logs_are_text(logs, text):
    assert decode_training(body(logs=logs)).logs == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, None),
        ("", None),
        ("out of memory", "out of memory"),
        ({"detail": [1]}, '{"detail": [1]}'),
        (42, "42"),
        ("a\x00b", "ab"),
        ("x" * 5000, "x" * 4096),
    ],
)
def test_an_error_is_text_whatever_it_was(error, text):
    assert decode_training(body(error=error)).error == text


def test_the_trainers_name_is_dropped_when_it_can_not_be_stored():
    assert decode_training(body(model="a/b\x00", version=7)).trainer is None
    assert decode_training(body(model="a/b", version="hidden")).trainer_version == "hidden"


def test_half_an_emoji_in_free_text_is_noise():
    training = decode_training(
        b'{"id": "abc", "status": "failed", "error": "x\\ud83d", '
        b'"logs": "\\ude00 \\ud83d\\ude00", "input": {"\\ud800": 1}}'
    )

    assert training.error == "x?"
    assert training.logs == "? 😀"
    assert training.input == {"?": 1}


@pytest.mark.parametrize("status", list(TrainingStatus))
def test_four_statuses_are_the_end(status):
    ends = {"succeeded", "failed", "canceled", "aborted"}

    assert decode_training(body(status=status)).has_ended is (status in ends)


def test_an_unknown_status_is_passed_on_and_is_no_end():
    training = decode_training(body(status="paused"))

    assert training.status == "paused"
    assert not training.has_ended


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"training"',
        b"{",
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        b'{"id": "abc", "status": "succeeded", "logs": "\xff"}',
        b'{"id": "abc", "status": "succeeded", "logs": "\x00"}',
        b'{"id": "abc", "status": "succeeded", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"id": "abc", "status": "succeeded", "logs": "\\ud800", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"id": "abc", "status": "succeeded", "logs": "\\ud800", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"id": "abc", "status": "succeeded", "output": "\\\\ud800", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"id": "abc", "status": "succeeded", "output": ' + b"9" * 5000 + b"}",
        b'["\\ud800"]',
        b'{"status": "succeeded"}',
        b'{"id": "abc"}',
        b'{"id": null, "status": "succeeded"}',
        b'{"id": 7, "status": "succeeded"}',
        b'{"id": "abc", "status": 7}',
        body(id=""),
        body(id="a/b"),
        body(id=".."),
        body(id="abc\n"),
        body(id="abc\x00"),
        body(id="a" * 129),
        body(status=""),
        body(status="succeeded\x00"),
        b'{"id": "abc\\ud800", "status": "succeeded"}',
        b'{"id": "abc", "status": "succeeded\\ud800"}',
    ],
)
def test_what_is_no_training_is_refused(raw):
    with pytest.raises(NotATraining):
        decode_training(raw)


@pytest.mark.parametrize(
    "output", [r'"a\u0000"', r'"a\ud800"', r'{"a\u0000": 1}', r'[{"a": ["\ud800"]}]', "NaN", "[1e999]"]
)
def test_an_output_that_can_not_be_stored_as_it_came_is_refused(output):
    with pytest.raises(NotATraining):
        decode_training(b'{"id": "abc", "status": "succeeded", "output": %s}' % output.encode())


def test_a_refusal_repeats_nothing_of_the_body():
    with pytest.raises(NotATraining) as caught:
        decode_training(body(id="/secret/", input={"key": "secret"}))

    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


def test_neither_logs_nor_input_show_when_it_is_printed():
    assert "private" not in repr(decode_training(body(logs="private", input={"image": "private"})))


def test_the_deepest_output_that_is_read_also_travels():
    deepest = b"[" * 195 + b"]" * 195
    training = decode_training(b'{"id": "abc", "status": "succeeded", "output": %s}' % deepest)

    event = TrainingSucceeded(training_id=training.id, output=training.output)

    assert TrainingSucceeded.model_validate_json(event.model_dump_json()) == event


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"id": st.just("abc"), "status": st.just("processing")},
        optional=dict.fromkeys(
            ("model", "version", "input", "logs", "error", "created_at", "started_at", "completed_at", "webhook"),
            json_values,
        ),
    )
)
def test_no_value_of_a_soft_field_sinks_a_training(fields):
    assert decode_training(json.dumps(fields).encode()).id == "abc"


@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(raw):
    with pytest.raises(NotATraining):
        decode_training(raw)


def test_a_prediction_is_read_alike():
    prediction = decode_prediction((WEBHOOKS / "17-prediction-not-training.json").read_bytes())

    assert prediction.has_ended
    assert prediction.output == ["https://replicate.delivery/xezq/REDACTED/out-0.webp"]
