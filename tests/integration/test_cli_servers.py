"""`modelswap db` and `modelswap topology` against real servers."""

import json
from datetime import timedelta

import pytest

from services.cli.main import main
from shared.contract.topology import topology
from shared.runtime.broker import declare
from shared.runtime.broker.link import Link
from tests.servers import Urls


def said(capsys: pytest.CaptureFixture[str], typed: str) -> tuple[int, str, str]:
    """The exit code of a command, and what it wrote to its two outputs."""
    try:
        code = main(typed.split())
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def run(capsys: pytest.CaptureFixture[str], typed: str) -> tuple[int, str]:
    """The exit code of a command, and its result."""
    return said(capsys, typed)[:2]


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
    applied, done = run(capsys, "topology apply")
    after, nothing = run(capsys, "topology diff")

    assert before == 1
    assert "queue modelswap.delay.7s: missing" in json.loads(missing)
    assert applied == 0
    assert "exchanges" in done
    assert (after, nothing) == (0, "every exchange and queue is as planned\n")


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_missing_queue_is_named_without_the_management_api(broker_without_a_queue, monkeypatch, capsys, output):
    monkeypatch.setenv("MODELSWAP_AMQP_URL", broker_without_a_queue)
    monkeypatch.setenv("MODELSWAP_RETRY_DELAYS", "7s")
    monkeypatch.setenv("MODELSWAP_MANAGEMENT_URL", "http://user:password@127.0.0.1:1")

    code, missing, why = said(capsys, f"topology diff -o {output}")

    assert (code, "modelswap.delay.7s" in missing) == (1, True)
    assert "modelswap: bindings and users are not known: http://127.0.0.1:1/" in why
    assert "Next: start RabbitMQ's management API" in why


@pytest.fixture
async def broker_without_a_binding(broker_urls: Urls) -> Urls:
    """A broker that has the queue of a delay which nobody else uses, but not its binding."""
    if not broker_urls.management_url:
        pytest.skip("the management API of this broker is not known")
    name = "modelswap.delay.9s"
    link = await Link.open(broker_urls.amqp_url, name="test")
    await declare(link.channel, topology([timedelta(seconds=9)]))
    await link.channel.queue_unbind(name, name, "#")
    await link.close()
    return broker_urls


def test_a_missing_binding_is_named_and_made(broker_without_a_binding, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_AMQP_URL", broker_without_a_binding.amqp_url)
    monkeypatch.setenv("MODELSWAP_RETRY_DELAYS", "9s")
    line = "queue modelswap.delay.9s: missing binding to exchange modelswap.delay.9s with routing key #"

    _, _, why = said(capsys, "topology diff")
    monkeypatch.setenv("MODELSWAP_MANAGEMENT_URL", broker_without_a_binding.management_url)
    before, missing, remedy = said(capsys, "topology diff -o json")
    said(capsys, "topology apply")
    _, after, _ = said(capsys, "topology diff -o json")

    assert "bindings and users were not looked at: MODELSWAP_MANAGEMENT_URL is not set" in why
    assert (before, line in json.loads(missing), line in json.loads(after)) == (1, True, False)
    assert "modelswap topology apply makes what is missing" in remedy
