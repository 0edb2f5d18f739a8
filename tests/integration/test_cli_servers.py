"""`modelswap db` and `modelswap topology` against real servers."""

import json

import pytest

from services.cli.main import main
from shared.runtime.broker.link import Link


def run(capsys: pytest.CaptureFixture[str], typed: str) -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    try:
        code = main(typed.split())
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().out


def test_an_empty_database_is_told_from_a_migrated_one(empty_database_url, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_DATABASE_URL", empty_database_url)

    before, pending = run(capsys, "db status -o json")
    _, first = run(capsys, "db migrate")
    _, second = run(capsys, "db migrate")
    after, _ = run(capsys, "db status -o json")

    names = [each["name"] for each in json.loads(pending)]
    assert (before, after) == (1, 0)
    assert first.splitlines() == [*(f"applied {name}" for name in names), "the database is up to date"]
    assert second.splitlines() == ["the database is up to date"]


@pytest.fixture
async def broker_without_a_queue(amqp_url: str) -> str:
    """A broker without the queue of a delay that nobody else uses."""
    link = await Link.open(amqp_url, name="test")
    await link.channel.queue_delete("modelswap.delay.7s")
    await link.close()
    return amqp_url


def test_a_missing_queue_is_named_and_made(broker_without_a_queue, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_AMQP_URL", broker_without_a_queue)
    # A delay of its own, so that nobody else's queues are touched.
    monkeypatch.setenv("MODELSWAP_RETRY_DELAYS", "7s")

    before, missing = run(capsys, "topology diff -o json")
    applied, said = run(capsys, "topology apply")
    after, nothing = run(capsys, "topology diff")

    assert before == 1
    assert "queue modelswap.delay.7s: missing" in json.loads(missing)
    assert applied == 0
    assert "exchanges" in said
    assert (after, nothing) == (0, "every exchange, queue and user is as planned\n")
