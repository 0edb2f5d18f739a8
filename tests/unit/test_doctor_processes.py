"""What does the doctor make of what a process says of itself?"""

from __future__ import annotations

import pytest

from services.cli.choices import Format
from services.cli.local.check import OK, SET, WARNING, WRONG, Finding, check
from services.cli.local.doctor import _first_things_first, how_to_ask_ops, print_findings
from services.cli.local.running import _finding
from services.cli.local.stack import Environment
from services.cli.problem import NoAnswer, NotNow, Problem, Refused
from shared.contract.errors import DependencyDown
from shared.contract.health import Health, ProcessState, Seen, how_to_start, judge, why_stuck
from shared.runtime.client import ServiceFailed
from shared.runtime.postgres_errors import NotReady
from shared.runtime.processes import oldest_deliveries
from shared.runtime.settings import BrokerSettings

ASIDE = {"owners": "2 set aside, the last for service_down"}


def finding(health: Health) -> Finding:
    return _finding("ops", judge("ops", health, "1"), WRONG)


def test_items_that_are_set_aside_are_a_warning():
    found = finding(Health(status="ok", version="1", checks={"archive": "ok"}, set_aside=ASIDE))

    assert (found.status, found.detail) == (WARNING, "ready, but owners: 2 set aside, the last for service_down")


def test_an_unready_process_is_wrong_despite_set_aside_items():
    health = Health(status="unavailable", version="1", checks={"archive": "RabbitMQ is away"}, set_aside=ASIDE)

    assert finding(health).status == WRONG


def test_an_optional_check_of_a_ready_process_is_a_warning():
    found = finding(Health(status="ok", version="1", checks={"progress": "no consumer"}))

    assert (found.status, found.detail) == (WARNING, "is ready, but: progress: no consumer")


@pytest.mark.parametrize(
    ("check", "then"),
    [
        ("gap", '"Webhooks were missed" in deploy/runbook.md'),
        ("events_log", '"The events log" in deploy/runbook.md'),
        ("progress", "fix that; log of ops"),
    ],
)
def test_a_check_that_the_runbook_knows_leads_to_it(check: str, then: str):
    assert finding(Health(status="ok", version="1", checks={"archive": "ok", check: "trouble"})).then == then


def test_what_several_checks_say_is_said_once():
    away = "Postgres is away: refused"
    found = finding(Health(status="no", version="1", checks={"database": away, "archive": "full", "purge": away}))

    assert found.detail == f"is not ready: database, purge: {away}; archive: full"


@pytest.mark.parametrize(
    ("detail", "wrong", "then"),
    [
        ("is not ready: database: Postgres is away: refused", {"database"}, "fix the database first"),
        ("not known: not now (database_down): try again in a moment", {"database"}, "fix the database first"),
        ("is not ready: consumer: RabbitMQ does not answer: refused", {"broker"}, "fix the broker first"),
        ("is not ready: database: Postgres is away: refused", set(), "its own"),
        ("is not ready: gap: 3 events", {"database", "broker"}, "its own"),
    ],
)
def test_what_follows_from_an_outage_points_to_it(detail: str, wrong: set[str], then: str):
    found = _first_things_first(Finding("state", WRONG, detail, "its own"), wrong)

    assert found == Finding("state", WRONG, detail, then)


def test_a_process_of_another_version_is_to_be_restarted():
    found = finding(Health(status="ok", version="2", checks={}))

    assert (found.status, found.then) == (WARNING, "restart ops")


@pytest.mark.parametrize("away", [WARNING, WRONG])
def test_nothing_is_broken_before_the_first_start(away: str):
    seen = Seen(ProcessState.AWAY, "nothing listens at http://ops", how_to_start("ops"))

    assert _finding("ops", seen, away).status == away


@pytest.mark.parametrize(
    ("waiting", "consumers", "oldest", "problem"),
    [
        (0, 0, 0.0, None),
        (3, 1, 60.0, None),
        (3, 0, 0.0, "3 wait in q, which has no consumer"),
        (3, 1, 61.0, "the oldest message of q is stuck for 61 s, 3 wait"),
    ],
)
def test_a_queue_is_stuck_without_consumer_or_after_a_minute(waiting, consumers, oldest, problem):
    assert why_stuck("q", waiting, consumers, oldest) == problem


def test_the_oldest_message_is_read_from_the_metrics():
    text = '# TYPE modelswap_oldest_delivery_seconds gauge\nmodelswap_oldest_delivery_seconds{queue="q"} 2.5\n'

    assert oldest_deliveries(text, "http://state/metrics") == {"q": 2.5}


@pytest.mark.parametrize("text", ["{", "modelswap_oldest_delivery_seconds 1\n", 'a{b="c} 1\n'])
def test_what_is_no_metrics_is_refused(text: str):
    with pytest.raises(ServiceFailed, match="http://state/metrics does not answer with metrics"):
        oldest_deliveries(text, "http://state/metrics")


@pytest.mark.parametrize(
    ("problem", "then"),
    [
        (NoAnswer("nothing listens", then=""), how_to_start("ops")),
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


@pytest.mark.parametrize(
    ("error", "status", "then"),
    [
        (DependencyDown("Postgres is away"), WARNING, "fix the database first"),
        (NotReady("relation state.outbox does not exist"), WRONG, "modelswap db migrate; if all"),
        (Refused("permission denied for schema state", then="use the owner's login"), WARNING, "use the owner's login"),
    ],
)
async def test_a_database_that_answers_is_not_what_is_away(error, status, then):
    async def look(_: Environment) -> str:
        raise error

    found = await check("outbox", look, {}, "read the log of state", after="the database")

    assert (found.status, found.then[: len(then)]) == (status, then)


@pytest.mark.parametrize(
    ("environment", "detail", "missing"),
    [
        ({}, "MODELSWAP_AMQP_URL is missing", "MODELSWAP_AMQP_URL"),
        ({"MODELSWAP_AMQP_URL": "http://x"}, "MODELSWAP_AMQP_URL: is not an address", ""),
    ],
)
async def test_a_finding_names_the_setting_that_is_missing(environment: Environment, detail: str, missing: str):
    async def look(given: Environment) -> str:
        return str(BrokerSettings.load(given))

    found = await check("broker", look, environment, "start RabbitMQ")

    assert (found.status, found.then, found.missing) == (WRONG, SET, missing)
    assert found.detail.startswith(detail)
