"""The commands for what failed: found, understood, dropped, restored, exported, and all of it in the audit."""

from __future__ import annotations

import asyncio
import base64
import json
from uuid import uuid4

import pytest
from standardwebhooks import Webhook

from services.simulator.faults import FaultOrder
from services.simulator.simulator import Simulator
from shared.contract.envelope import wrap
from shared.contract.identity import ModelName
from shared.contract.topology import topology
from shared.runtime.broker import Publisher, to_message
from shared.runtime.clock import now
from tests.end_to_end.test_walk import start
from tests.shell import Shell
from tests.stack import READER_TOKEN, Stack
from tests.state import model_of, ready
from tests.webhooks import Endpoint, activated, answer


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    return {**stack.environment, "MODELSWAP_OPS_URL": stack.url("ops")}


@pytest.fixture
async def training(stack: Stack, simulator: Simulator) -> str:
    """One whose output names somebody else's model."""
    simulator.order(FaultOrder.model_validate({"foreign_version": True}))
    begun = await start(stack, f"dead-{uuid4().hex[:8]}")
    await stack.dead_letter(begun["training_id"])
    return str(begun["training_id"])


async def test_a_failed_training_is_found_shown_and_grouped(settings, training):
    shell = Shell(settings)

    (line,) = await shell.json("dead-letters", "list", "--training", training, "--status", "open", "--since", "1h")
    whole = await shell.json("dead-letters", "show", str(line["number"]))
    code, shown, _ = await shell.run("dead-letters", "show", str(line["number"]))
    groups = await shell.json("dead-letters", "groups", "--status", "open")

    assert (line["error_code"], line["status"]) == ("destination_mismatch", "open")
    assert json.loads(base64.b64decode(whole["body_base64"]))["training_id"] == training
    assert code == 0
    assert "traceback:" in shown
    assert training in shown
    (group,) = [each for each in groups if each["fingerprint"] == line["fingerprint"]]
    assert group["open"] >= 1


async def test_dropped_letters_are_exported_restored_and_audited(settings, training):
    shell = Shell(settings)
    (line,) = await shell.json("dead-letters", "list", "--training", training)
    number = str(line["number"])

    _, dropped, _ = await shell.run("dead-letters", "drop", number, "--reason", "of a test")
    _, exported, _ = await shell.run("dead-letters", "export", "--training", training, "--status", "dropped")
    restored = await shell.json("dead-letters", "restore", "--training", training, "--reason", "it was real")
    audit = await shell.json("audit", "--target", f"dead letter {number}")

    assert dropped == "1 dead letter is dropped; it is in the audit\n"
    assert [json.loads(each)["number"] for each in exported.splitlines()] == [line["number"]]
    assert restored == {"letters": 1, "unchanged": {}}
    assert [(each["actor"], each["action"], each["reason"]) for each in audit] == [
        ("olga", "dead_letter.dropped", "of a test")
    ]


async def test_a_selection_without_a_dead_letter_is_a_mistake(settings):
    code, _, said = await Shell(settings).run(
        "dead-letters", "drop", "--group", "3f9a0c51d2e47b68", "--reason", "of a test", "--yes"
    )

    assert code == 1
    assert "no dead letter fits --group 3f9a0c51d2e47b68: nothing has changed" in said


async def test_a_letter_is_closed_once_another_event_swaps(settings, stack, training):
    letter = await stack.dead_letter(training)
    asked = await stack.until_stage(training, "unverified")
    owner, name = asked["destination"].split("/")
    async with Publisher(stack.broker.url, name="test", timeout_seconds=60) as publisher:
        verified = ready(training, model=model_of(training, ModelName(owner, name)))
        await publisher.publish(to_message(verified, topology()))

    async with asyncio.timeout(90):
        while (shown := await stack.dead_letter(training))["status"] == "open":
            await asyncio.sleep(0.2)

    model = (await stack.model(asked["user_id"]) or {})["reference"]
    why = f"by another event the training got its model, {model}, and is active"
    assert (shown["status"], shown["status_reason"]) == ("resolved", why)
    (entry,) = await Shell(settings).json("audit", "--target", f"dead letter {letter['number']}")
    assert (entry["actor"], entry["action"], entry["reason"]) == ("ops", "dead_letter.resolved", why)


async def test_where_one_letter_is_not_there_none_is_dropped(settings, training):
    shell = Shell(settings)
    (line,) = await shell.json("dead-letters", "list", "--training", training)
    number = str(line["number"])

    code, _, said = await shell.run("dead-letters", "drop", number, number, "999999", "--reason", "of a test")

    assert code == 1
    assert said.startswith("modelswap: there is no dead letter 999999\n")
    assert (await shell.json("dead-letters", "show", number))["status"] == "open"


async def test_without_a_limit_everything_is_exported(settings, training):
    shell = Shell(settings)
    listed = await shell.json("dead-letters", "list", "--limit", "1000")

    code, exported, said = await shell.run("dead-letters", "export", "--since", "1d")
    _, one, _ = await shell.run("dead-letters", "export", "--since", "1d", "--limit", "1")

    assert (code, said) == (0, "")
    assert [json.loads(each)["number"] for each in exported.splitlines()] == [each["number"] for each in listed]
    assert len(one.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("dead-letters show 999999", "there is no dead letter 999999"),
        ("dead-letters list --status odd", "status: must be one of open"),
        ("dead-letters list --since yesterday", "'yesterday' is not a time"),
        ("dead-letters drop --reason x", "say which"),
        ("dead-letters drop 999999 --reason x", "there is no dead letter 999999"),
        ("dead-letters drop 999999 --reason \udcff", "not text in UTF-8"),
    ],
)
async def test_what_can_not_be_is_said_in_one_line(settings, typed, problem):
    code, out, err = await Shell(settings).run(*typed.split())

    assert (code, out) == (1, "")
    assert err.startswith(f"modelswap: {problem}")
    assert err.splitlines()[1].startswith("Next: ")


async def test_a_reader_can_look_and_is_told_that_it_may_not_drop(settings, training):
    reader = Shell({**settings, "MODELSWAP_OPS_TOKENS": READER_TOKEN})

    (line,) = await reader.json("dead-letters", "list", "--training", training)
    code, _, err = await reader.run("dead-letters", "drop", str(line["number"]), "--reason", "x")

    assert code == 1
    assert "may look, but change nothing" in err


async def test_the_doctor_says_how_many_wait_and_what_to_type(settings, training):
    # What else it finds depends on the machine, and decides on the exit code.
    _, found_all, _ = await Shell(settings).run("doctor", "-o", "json")
    findings = json.loads(found_all)

    (found,) = [each for each in findings if each["check"] == "dead letters"]
    assert (found["status"], found["then"]) == ("warning", "modelswap dead-letters groups --status open")


async def test_the_doctor_calls_nothing_well_that_only_ops_could_tell(settings):
    _, found_all, _ = await Shell({**settings, "MODELSWAP_OPS_URL": "http://127.0.0.1:9"}).run("doctor", "-o", "json")
    findings = json.loads(found_all)

    said = {each["check"]: each["status"] for each in findings}
    assert (said["dead letters"], said["webhooks"]) == ("warning", "warning")


async def test_a_webhook_that_was_given_up_is_replayed_once_its_endpoint_works(settings, stack):
    shell = Shell({**settings, "MODELSWAP_NOTIFIER_URL": stack.url("notifier")})
    async with (
        Endpoint(answer(410)) as server,
        Publisher(stack.broker.url, name="test", timeout_seconds=60) as publisher,
    ):
        made = await shell.json("webhooks", "add", server.url, "--events", "model.activated.v1,model.withdrawn.v1")
        endpoint = made["id"]
        event = activated(f"webhooks-{uuid4().hex[:8]}", 1)
        await publisher.publish(to_message(wrap(event, source="state", now=now()), topology()))
        letter = await stack.dead_letter(event.training_id)
        assert (letter["queue"], letter["error_code"]) == ("modelswap.deliveries", "webhook_endpoint_gone")
        (disabled,) = await shell.json("webhooks", "list")
        assert disabled["status"] == "gone"
        _, dropped, _ = await shell.run("dead-letters", "drop", str(letter["number"]), "--reason", "of a test")
        assert "is dropped" in dropped
        await shell.json("dead-letters", "restore", str(letter["number"]), "--reason", "it was real")

        server.behave = answer(200)
        enabled = await shell.json("webhooks", "edit", endpoint, "--enable", "--reason", "it is mended")
        assert enabled["status"] == "enabled"
        replay = ("dead-letters", "replay", str(letter["number"]), "--reason", "it works again")
        predicted, _, _ = await shell.run(*replay, "--dry-run", "--watch")
        code, said, _ = await shell.run(*replay, "--yes", "--watch")

        assert (predicted, code) == (0, 0), said
        (delivery,) = await shell.json("webhooks", "deliveries", endpoint, "--status", "delivered")
        assert delivery["attempts"] == 2
        assert (await shell.json("dead-letters", "show", str(letter["number"])))["status"] == "resolved"
        rotated = await shell.json("webhooks", "rotate-secret", endpoint)
        await shell.json("webhooks", "test", endpoint, "--reason", "is it up?")
        heard = (await server.until_heard(3))[-1]
        for secret in (made["secret"], rotated["secret"]):
            Webhook(secret).verify(heard.body, dict(heard.headers))
        again = ("webhooks", "resend", endpoint, "--since", "1h", "--all", "--reason", "lost there")
        assert await shell.json(*again, "--dry-run") == {
            "deliveries": 2,
            "dry_run": True,
            "next_since": None,
        }
        assert (await shell.json(*again, "--yes"))["deliveries"] == 2
        edit = ("webhooks", "edit", endpoint, "--description", "theirs", "--pause", "--reason", "they move")
        paused = await shell.json(*edit)
        assert (paused["status"], paused["description"]) == ("paused", "theirs")
        described = await shell.json("webhooks", "edit", endpoint, "--description", "ours")
        assert (described["status"], described["description"]) == ("paused", "ours")
        one = await shell.json("webhooks", "resend", endpoint, delivery["id"], "--reason", "lost there")
        assert (one["id"], one["event"]) == (delivery["id"], "model.activated.v1")
        entries = await shell.json("audit", "--target", f"webhook endpoint {endpoint}")
        assert [(each["action"], each["reason"]) for each in reversed(entries)] == [
            ("webhook_endpoint.added", "no reason was given"),
            ("webhook_endpoint.enabled", "it is mended"),
            ("webhook_endpoint.secret_rotated", "no reason was given"),
            ("webhook_endpoint.tested", "is it up?"),
            *[("webhook_endpoint.resent", "lost there")] * 2,
            ("webhook_endpoint.edited", "they move"),
            ("webhook_endpoint.paused", "they move"),
            ("webhook_endpoint.edited", "no reason was given"),
            *[("webhook_endpoint.resent", "lost there")] * 2,
        ]
        assert [each["outcome"] for each in entries[2:5]] == [
            "asked: description: ours",
            "asked: paused",
            "asked: description: theirs",
        ]
        _, shown, _ = await shell.run("webhooks", "show", endpoint)
        assert made["secret"] not in shown
        removed, _, _ = await shell.run("webhooks", "remove", endpoint, "--reason", "they left", "--yes")
        gone, _, why = await shell.run("webhooks", "show", endpoint)
        assert (removed, gone, why.partition("\n")[0]) == (0, 1, f"modelswap: there is no webhook endpoint {endpoint}")
        entries = await shell.json(
            "audit", "--action", "webhook_endpoint.removed", "--target", f"webhook endpoint {endpoint}"
        )
        assert [(each["reason"], each["outcome"]) for each in entries] == [
            ("they left", f"removed: {server.url}"),
            ("they left", "asked: removed"),
        ]
