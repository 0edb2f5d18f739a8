"""What does the doctor make of what a process says of itself?"""

from __future__ import annotations

import pytest

from services.cli.choices import Format
from services.cli.local.check import OK, SET, WARNING, WRONG, Finding, how_to_ask_ops
from services.cli.local.doctor import print_findings
from services.cli.local.health import Health
from services.cli.local.running import _process
from services.cli.problem import NoAnswer, NotNow, Problem

ASIDE = {"owners": "2 set aside, the last for service_down"}


def test_items_that_are_set_aside_are_a_warning():
    found = _process("ops", Health(status="ok", version="1", checks={"archive": "ok"}, set_aside=ASIDE), "1", WRONG)

    assert (found.status, found.detail) == (WARNING, "ready, but owners: 2 set aside, the last for service_down")


def test_an_unready_process_is_wrong_despite_set_aside_items():
    health = Health(status="unavailable", version="1", checks={"archive": "RabbitMQ is away"}, set_aside=ASIDE)

    assert _process("ops", health, "1", WRONG).status == WRONG


def test_an_optional_check_of_a_ready_process_is_a_warning():
    found = _process("state", Health(status="ok", version="1", checks={"progress": "no consumer"}), "1", WRONG)

    assert (found.status, found.detail) == (WARNING, "is ready, but: progress: no consumer")


@pytest.mark.parametrize(
    ("problem", "then"),
    [
        (NoAnswer("nothing listens", then=""), "modelswap serve ops"),
        (NotNow("it hangs", then="modelswap doctor"), "read the log of ops"),
        (Problem("another token", then="modelswap config show"), "modelswap config show"),
    ],
)
def test_an_ops_that_hangs_is_not_to_be_started_again(problem: Problem, then: str):
    assert how_to_ask_ops(problem) == then


def test_the_same_advice_is_said_once(capsys):
    missing = [Finding(name, WRONG, "is missing", SET) for name in ("broker", "database")]

    print_findings([*missing, Finding("outbox", OK, "nothing waits")], Format.TABLE)

    assert capsys.readouterr().out.splitlines() == [
        "broker    wrong  is missing",
        "database  wrong  is missing",
        f"                 → {SET}",
        "outbox    ok     nothing waits",
    ]
