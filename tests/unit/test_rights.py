"""What the RabbitMQ user of each process may do follows from what the process consumes and publishes."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from services.cli.local.users import PASSWORDS, find_passwords
from services.cli.problem import Problem
from shared.contract.events import EVENTS
from shared.contract.rights import NOTHING, USERS, rights_of
from shared.contract.topology import topology
from shared.runtime.settings_base import SettingsError

PLAN = topology((timedelta(seconds=5),))
NAMES = sorted({*(each.name for each in PLAN.exchanges), *(each.name for each in PLAN.queues), "amq.default"})


def allowed(pattern: str) -> set[str]:
    return {name.removeprefix("modelswap.") for name in NAMES if re.search(pattern, name)}


@pytest.mark.parametrize(
    ("process", "reads", "writes"),
    [
        ("receiver", set(), {"training", "dead"}),
        ("extractor", {"extractor"}, {"events", "dead", "delay.5s"}),
        ("state", {"state", "progress"}, {"training", "events", "dead", "delay.5s"}),
        ("ops", {"ops", "dead"}, {"training", "events", "dead", "delay.5s", "amq.default"}),
        ("notifier", {"deliveries", "events.log"}, {"training", "dead", "delay.5s"}),
    ],
)
def test_a_user_reads_and_writes_what_its_process_needs(process, reads, writes):
    rights = rights_of(process, PLAN)

    assert (allowed(rights.read), allowed(rights.write)) == (reads, writes)
    assert rights.configure == NOTHING


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_every_event_may_be_published_by_a_user(event):
    publishers = [
        process
        for process in USERS
        if re.search(rights_of(process, PLAN).topics.get(event.exchange, NOTHING), event.key)
    ]

    assert publishers


@pytest.mark.parametrize("event", ["model.activated.v1", "model.withdrawn.v1", "model.superseded.v1"])
def test_only_state_may_say_that_a_model_is_in_use(event):
    allowed = [
        process
        for process in USERS
        if re.search(rights_of(process, PLAN).topics.get("modelswap.events", NOTHING), event)
    ]

    assert allowed == ["state"]


def test_a_password_that_is_missing_beside_others_is_named():
    given = dict.fromkeys(PASSWORDS.values(), "good") | {"RABBITMQ_OPS_PASSWORD": ""}

    with pytest.raises(Problem, match=r"^RABBITMQ_OPS_PASSWORD: missing"):
        find_passwords(given)


def test_passwords_stand_in_files_too(tmp_path):
    for process in PASSWORDS:
        (tmp_path / process).write_text(f"secret-of-{process}\n")
    given = {f"{name}_FILE": str(tmp_path / process) for process, name in PASSWORDS.items()}

    assert find_passwords(given) == {process: f"secret-of-{process}" for process in PASSWORDS}


def test_a_password_file_that_cannot_be_read_is_named(tmp_path):
    given = {f"{name}_FILE": str(tmp_path / "missing") for name in PASSWORDS.values()}

    with pytest.raises(SettingsError, match="RABBITMQ_OPS_PASSWORD_FILE: FileNotFoundError"):
        find_passwords(given)


def test_without_any_password_all_processes_share_one_user():
    assert find_passwords({}) == {}
