"""A log line is one line of ASCII JSON, whatever users put into it."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from shared.runtime import logs


@pytest.fixture(autouse=True)
def _restored():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("text", ["\x9b31m", "a\u202eb", "a\u2028b", "\n", "\ud800", "é"])
def test_a_hostile_text_is_one_ascii_line_that_says_it(text: str, capsys: pytest.CaptureFixture[str]):
    logs.configure("test")

    structlog.get_logger().info("webhook.accepted", user_id=text)

    line = capsys.readouterr().out
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["user_id"] == text


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("library")], ids=["ours", "a library's"])
def test_a_hostile_text_does_nothing_to_a_terminal(log, capsys: pytest.CaptureFixture[str]):
    logs.configure("test", renderer="console")
    text = "\x1b[31m\x9b\x07\u202e\ud800"

    def fail() -> None:
        raise ValueError(text)

    try:
        fail()
    except ValueError:
        log.exception(text)
    structlog.get_logger().info("webhook.accepted", user_id=text)

    said = capsys.readouterr().out
    assert said.count("ValueError: ") == 1
    assert all(each.isprintable() or each == "\n" for each in said)


def test_an_object_of_any_kind_is_said_as_its_repr(capsys: pytest.CaptureFixture[str]):
    logs.configure("test")

    structlog.get_logger().info("x", what=str.upper)

    assert json.loads(capsys.readouterr().out)["what"] == repr(str.upper)


@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("library")], ids=["ours", "a library's"])
def test_a_traceback_has_frames_but_no_local_variables(log, capsys: pytest.CaptureFixture[str]):
    logs.configure("test")
    token = "hunter2"

    try:
        len(token) / 0
    except ZeroDivisionError:
        log.exception("x.failed")

    line = capsys.readouterr().out
    assert token not in line
    [error] = json.loads(line)["exception"]
    assert (error["exc_type"], error["frames"][0]["name"]) == (
        "ZeroDivisionError",
        "test_a_traceback_has_frames_but_no_local_variables",
    )


def test_lines_of_ours_and_of_libraries_have_the_same_fields(capsys: pytest.CaptureFixture[str]):
    logs.configure("test")

    with logs.about({"training_id": "t1"}):
        structlog.get_logger().warning("x")
        logging.getLogger("library").warning("x")

    ours, others = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ours == {**others, "timestamp": ours["timestamp"]}
    assert ours["training_id"] == "t1"
