"""The filters answer each line, whatever it holds."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from services.cli.events.filters import run_filter
from services.extractor.filter import extract_line
from shared.replicate.filter import progress_line

BAD = [b"\xff\xfe", b"", b"[]", b"{", b'"\xc3\x28"', b"{" * 100_000, b'{"id": 1' + b"0" * 5000 + b"}"]


def answers(answer: Callable[[str], str], lines: list[bytes]) -> list[dict[str, Any]]:
    sink = BytesIO()
    run_filter(answer, BytesIO(b"\n".join(lines)), sink)
    return [json.loads(line) for line in sink.getvalue().splitlines()]


@pytest.mark.parametrize("answer", [extract_line, progress_line])
def test_a_bad_line_has_its_answer_and_stops_nothing(answer):
    said = answers(answer, [*BAD, b'{"id": "last"}'])

    assert [each.get("error") for each in said[:-1]] == ["bad_line"] * len(BAD)
    assert said[-1]["id"] == "last"


def test_answers_come_in_the_order_of_their_lines():
    said = answers(progress_line, [b'{"id": %d, "logs": null}' % number for number in range(20)])

    assert [each["id"] for each in said] == list(range(20))


def test_the_last_line_needs_no_end():
    said = answers(progress_line, [b'{"id": 1, "logs": "train:  50%| 5/10 [00:01]", "input": {"steps": 10}}'])

    assert said == [{"id": 1, "progress": 50.0, "step": 5, "total": 10}]


def test_a_byte_order_mark_is_no_part_of_a_line():
    assert [each["id"] for each in answers(progress_line, [b'\xef\xbb\xbf{"id": 1}\r', b'{"id": 2}\r'])] == [1, 2]


def test_nothing_in_is_nothing_out():
    assert answers(extract_line, []) == []


@pytest.mark.parametrize("answer", [extract_line, progress_line])
@pytest.mark.parametrize("identity", ["7", '"seven"', "null", "true", "1.5", '{"batch": 1}', '["a", 1]'])
def test_an_id_comes_back_as_it_was_whatever_it_is(answer, identity):
    (said,) = answers(answer, [b'{"id": %s}' % identity.encode()])

    assert said["id"] == json.loads(identity)


def test_an_id_that_can_not_be_said_again_does_not_sink_its_line():
    deep = ["[" * depth + "]" * depth for depth in range(900, 1000)]

    said = answers(progress_line, [b'{"id": %s, "logs": null}' % identity.encode() for identity in ["NaN", *deep]])

    assert len(said) == 1 + len(deep)
    assert said[0] == {"id": None, "progress": None, "step": None, "total": None}
