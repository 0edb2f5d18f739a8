"""`modelswap events`: what the log holds is shown, followed, and published again as it was."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from services.cli.events.log import Wanted, follow
from services.cli.main import main
from shared.contract.envelope import wrap
from shared.contract.events import EVENTS_EXCHANGE, Event, ModelActivated, ModelWithdrawn
from shared.contract.identity import ModelRef
from shared.contract.topology import EVENTS_LOG, topology
from shared.runtime.broker import Delivery, Publisher, declare_log, to_message
from shared.runtime.broker.log_reader import OpenLog
from shared.runtime.clock import now
from tests.broker import Broker
from tests.proxy import proxied

PLAN = topology()
MODEL = ModelRef("acme", "ada", "a" * 64)


@pytest.fixture
async def broker(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker with a log, in which others' events are too."""
    monkeypatch.setenv("MODELSWAP_AMQP_URL", amqp_url)
    broker = Broker(amqp_url)
    async with broker.link() as link:
        await declare_log(link, PLAN)
    return broker


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No log is empty here: one that sends nothing is on a busy machine."""
    monkeypatch.setattr("services.cli.events.log._EMPTY_SECONDS", 60.0)


@pytest.fixture
def user() -> str:
    """A user whose events only one test publishes."""
    return f"user-{uuid4()}"


def activated(user: str, generation: int) -> Event:
    return ModelActivated(
        training_id=f"t{generation}", user_id=user, generation=generation, ref=uuid4(), model=MODEL, trigger_word="TOK"
    )


def withdrawn(user: str, generation: int) -> Event:
    return ModelWithdrawn(training_id="t1", user_id=user, generation=generation, ref=uuid4(), previous=MODEL)


async def publish(broker: Broker, *events: Event) -> None:
    async with Publisher(broker.url, name="test", timeout_seconds=60) as publisher:
        for event in events:
            await publisher.publish(to_message(wrap(event, source="test", now=now()), PLAN))


async def run(capsys: pytest.CaptureFixture[str], *typed: str) -> tuple[int, str, str]:
    """The exit code of a command, and what it printed on each stream."""
    code = await asyncio.to_thread(main, typed)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


async def listed(capsys: pytest.CaptureFixture[str], *typed: str) -> list[Any]:
    code, printed, _ = await run(capsys, "events", "list", *typed, "-o", "json")
    assert code == 0
    found: list[Any] = json.loads(printed)
    return found


async def test_events_of_a_user_are_listed_newest_first(broker, user, capsys):
    await publish(broker, activated(user, 1), activated(user, 2), withdrawn(user, 3), activated(f"{user}x", 9))

    found = await listed(capsys, "--user", user)
    newest = await listed(capsys, "--user", user, "--limit", "1")
    swaps = await listed(capsys, "--user", user, "--type", "model.activated")
    _, table, _ = await run(capsys, "events", "list", "--user", user)

    assert [each["data"]["generation"] for each in found] == [3, 2, 1]
    assert [each["data"]["generation"] for each in newest] == [3]
    assert [each["data"]["generation"] for each in swaps] == [2, 1]
    assert found[0]["offset"] > found[1]["offset"] > found[2]["offset"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["model.withdrawn.v1", *["model.activated.v1"] * 2]
    assert found[0]["id"] in table


async def test_what_is_later_than_all_is_not_listed(broker, user, capsys):
    await publish(broker, activated(user, 1))

    assert await listed(capsys, "--user", user, "--since", "2999-01-01") == []


async def test_a_pause_is_not_the_end_of_the_log(broker, user, capsys, monkeypatch):
    await publish(broker, *(activated(user, generation) for generation in range(1, 501)))
    # As if all were in the last chunk: more than RabbitMQ sends without an ack.
    monkeypatch.setattr("services.cli.events.log._LAST", "first")
    loop, ack = asyncio.get_running_loop(), OpenLog.ack
    paused: list[Delivery] = []

    def pause_at_the_first(self: OpenLog, last: Delivery) -> None:
        if not paused:
            proxy.hold()
            loop.call_soon_threadsafe(loop.call_later, 1.0, proxy.resume)
        paused.append(last)
        ack(self, last)

    monkeypatch.setattr(OpenLog, "ack", pause_at_the_first)
    async with proxied(broker.url) as proxy:
        monkeypatch.setenv("MODELSWAP_AMQP_URL", proxy.url(broker.url))
        found = await listed(capsys, "--user", user, "--limit", "1000")

    assert [each["data"]["generation"] for each in found] == list(range(500, 0, -1))


async def test_the_log_is_followed_from_a_time_on(broker, user):
    await publish(broker, activated(user, 1))
    following = follow(broker.url, Wanted(user_id=user, since=now() - timedelta(minutes=1)))

    async with asyncio.timeout(60):
        first = await anext(following)
        await publish(broker, activated(user, 2))
        second = await anext(following)

    assert [json.loads(each.delivery.body)["generation"] for each in (first, second)] == [1, 2]


async def test_an_event_is_published_again_as_it_was(broker, user, capsys):
    await publish(broker, activated(user, 1), activated(user, 2))
    (sought,) = [each for each in await listed(capsys, "--user", user) if each["data"]["generation"] == 1]

    async with broker.subscribed(EVENTS_EXCHANGE, "model.activated.v1") as queue:
        code, printed, _ = await run(capsys, "events", "resend", sought["id"], "--since", "1h", "--yes")
        again = await broker.wait_for(queue)

    assert code == 0
    assert "generation 1" in printed
    assert json.loads(again.body) == sought["data"]
    attributes = {name: value for name, value in sought.items() if name not in ("offset", "data", "datacontenttype")}
    assert again.headers == {f"ce-{name}": value for name, value in attributes.items()}
    first, second = [each for each in await listed(capsys, "--user", user) if each["id"] == sought["id"]]
    assert {**first, "offset": 0} == {**second, "offset": 0}


async def test_an_event_is_published_to_one_subscription_only(broker, user, capsys):
    await publish(broker, activated(user, 1))
    (sought,) = await listed(capsys, "--user", user)
    name = f"test-{uuid4().hex[:8]}"
    queue = f"modelswap.subscription.{name}"

    async with broker.channel() as channel, broker.subscribed(EVENTS_EXCHANGE, "#") as others:
        await channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        code, printed, _ = await run(capsys, "events", "resend", sought["id"], "--to", name, "--yes")
        again = await broker.wait_for(queue)
        await channel.queue_delete(queue)
        assert await broker.depth(others) == 0

    assert (code, name in printed) == (0, True)
    assert again.headers["ce-id"] == sought["id"]
    assert len(await listed(capsys, "--user", user)) == 1


@pytest.mark.parametrize("typed", ["events list", "events tail", "trigger model.ready --user ann --yes"])
async def test_a_wrong_password_of_rabbitmq_names_its_setting(broker, monkeypatch, capsys, typed):
    address = urlsplit(broker.url)
    wrong = address._replace(netloc=f"nobody:wrong@{address.netloc.rpartition('@')[2]}")
    monkeypatch.setenv("MODELSWAP_AMQP_URL", wrong.geturl())

    code, _, said = await run(capsys, *typed.split())

    assert code == 1
    assert "RabbitMQ refuses us" in said
    assert "\nNext: check the user in MODELSWAP_AMQP_URL" in said


async def test_what_cannot_be_published_again_is_said(broker, user, capsys):
    await publish(broker, activated(user, 1))
    (sought,) = await listed(capsys, "--user", user)

    unknown, _, said = await run(capsys, "events", "resend", str(uuid4()), "--since", "1h", "--yes")
    nowhere, _, nothing = await run(capsys, "events", "resend", sought["id"], "--to", "nobody", "--yes")
    unasked, _, question = await run(capsys, "events", "resend", sought["id"])
    mistyped, _, names = await run(capsys, "events", "list", "--type", "model.moved")

    assert (unknown, nowhere, unasked, mistyped) == (1, 1, 1, 1)
    assert "is in the log" in said
    assert "no queue" in nothing
    assert "--yes" in question
    assert "model.activated" in names


async def test_without_a_log_the_remedy_is_named(broker, capsys):
    await broker.delete_queue(EVENTS_LOG)

    code, _, said = await run(capsys, "events", "list")

    assert code == 1
    assert f"there is no {EVENTS_LOG}" in said
    assert "topology apply" in said
