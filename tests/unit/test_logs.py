"""A log line is one line of ASCII JSON, whatever users put into it."""

from __future__ import annotations

import json

import pytest
import structlog

from shared.runtime import logs


@pytest.fixture(autouse=True)
def _restored():
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("text", ["\x9b31m", "a\u202eb", "a\u2028b", "\n", "\ud800", "é"])
def test_a_hostile_text_is_one_ascii_line_that_says_it(text: str, capsys: pytest.CaptureFixture[str]):
    logs.configure("test")

    structlog.get_logger().info("webhook.accepted", user_id=text)

    line = capsys.readouterr().out
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["user_id"] == text


def test_an_object_of_any_kind_is_said_as_its_repr(capsys: pytest.CaptureFixture[str]):
    logs.configure("test")

    structlog.get_logger().info("x", what=str.upper)

    assert json.loads(capsys.readouterr().out)["what"] == repr(str.upper)
