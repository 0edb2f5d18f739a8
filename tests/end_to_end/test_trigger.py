"""What `modelswap trigger` makes happen comes to what its name says, and `modelswap listen` passes events on."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.topology import STATE_QUEUE
from shared.replicate.signature import verify
from shared.runtime.clock import now
from tests.broker import Message as BrokerMessage
from tests.end_to_end.conftest import RECORDED
from tests.readme import Message, used
from tests.shell import Shell
from tests.stack import Stack


@pytest.fixture
def elsewhere(settings: dict[str, str], stack: Stack) -> Shell:
    """A shell whose Replicate answers, and is not the simulated one."""
    return Shell({**settings, "MODELSWAP_REPLICATE_API_URL": stack.url("state")})


async def run(shell: Shell, *typed: str) -> str:
    """What it said."""
    code, out, err = await shell.run("trigger", *typed)
    assert (code, err) == (0, "")
    return out


def training_in(out: str) -> str:
    (training_id,) = set(re.findall(r"202: training\.\w+ of (\S+) is confirmed", out))
    return str(training_id)


@pytest.mark.parametrize(
    ("event", "stage"),
    [
        ("training.started", "running"),
        ("training.progressed", "running"),
        ("training.succeeded", "active"),
        ("training.failed", "failed"),
        ("training.canceled", "canceled"),
    ],
)
async def test_a_training_ends_in_the_stage_that_is_triggered(event, stage, shell, walk, user):
    stack, simulator = walk
    training_id = training_in(await run(shell, event, "--user", user))

    training = await stack.until_stage(training_id, stage)

    assert training["user_id"] == user
    described = simulator.world.find_training(training_id)
    known = described.life.status(described.seconds(now()))
    assert known == ("processing" if stage == "running" else event.removeprefix("training."))
    model = await stack.model(user)
    assert (model and model["training_id"]) == (training_id if stage == "active" else None)


async def test_duplicated_and_shuffled_webhooks_end_in_the_model(shell, stack, user):
    webhooks = ("training.started", "training.progressed", "training.succeeded")

    out = await run(shell, *webhooks, "--user", user, "--destination", f"acme/{user}", "--times", "2", "--shuffle")

    assert len(out.splitlines()) == 6
    await stack.until_stage(training_in(out), "active")
    assert (await stack.model(user))["owner"] == "acme"


async def test_the_output_that_is_given_names_the_version_there_is(shell, stack, user):
    output = json.dumps({"version": {"id": "c" * 64}})

    out = await run(shell, "training.succeeded", "--user", user, "--destination", f"acme/{user}", "--output", output)

    await stack.until_stage(training_in(out), "active")
    assert (await stack.model(user))["reference"] == f"acme/{user}:{'c' * 64}"


async def test_a_made_up_version_is_refused_for_the_real_replicate(elsewhere, stack, user):
    about = ("training.succeeded", "--user", user, "--destination", f"acme/{user}")

    refused = await elsewhere.run("trigger", *about)
    code, out, told = await elsewhere.run("trigger", *about, "--version", RECORDED)

    assert refused[0] == 1
    assert "has no made-up version" in refused[2]
    assert "--version" in refused[2].splitlines()[-1]
    assert code == 0
    assert "has the version at the destination, the training ends as unverified" in told
    await stack.until_stage(training_in(out), "active")


async def heard(stack: Stack, queue: str, user: str, count: int) -> list[Message]:
    """Take so many made-up events of the user: real ones of earlier tests may come only now, after their commits."""
    messages: list[BrokerMessage] = []
    while len(messages) < count:
        message = await stack.broker.wait_for(queue)
        if json.loads(message.body).get("user_id") == user:
            messages.append(message)
    assert {message.headers["ce-trigger"] for message in messages} == {"true"}
    return [Message(each.headers, each.body) for each in messages]


async def test_public_events_can_be_triggered_twice_and_shuffled(shell, stack, user):
    story = ("model.activated", "model.withdrawn", "model.activated", "--user", user)

    async with stack.broker.subscribed(EVENTS_EXCHANGE, "model.#") as queue:
        out = await run(shell, *story, "--times", "3", "--shuffle", "--seed", "1")
        messages = await heard(stack, queue, user, 9)

    events = [json.loads(message.body) for message in messages]
    assert [event["generation"] for event in events] != sorted(event["generation"] for event in events)
    assert len(set(out.splitlines())) == 3
    (last,) = {event["model"] for event in events if event["generation"] == 3}
    assert used(messages) == {user: last}
    assert await stack.model(user) is None


async def test_made_up_public_events_change_no_training(shell, stack, user):
    training_id = training_in(await run(shell, "training.started", "--user", user, "--destination", f"acme/{user}"))
    await stack.until_stage(training_id, "running")
    about = ("--user", user, "--training", training_id, "--destination", f"acme/{user}")

    async with stack.broker.subscribed(EVENTS_EXCHANGE, "#") as queue:
        out = await run(shell, "extraction.failed", "model.ready", "model.activated", *about)
        await heard(stack, queue, user, 3)
    async with asyncio.timeout(60):
        while len(ignored(stack, training_id)) < 2:
            await asyncio.sleep(0.05)

    # Only two of the three are for us at all.
    assert out.count("; confirmed") == 3
    assert sorted(ignored(stack, training_id)) == ["extraction.failed.v1", "model.ready.v1"]
    assert (await stack.training(training_id))["stage"] == "running"
    assert await stack.model(user) is None
    assert await stack.dead_letters(training_id=training_id) == []
    assert await stack.broker.depth(STATE_QUEUE) == 0


def ignored(stack: Stack, training_id: str) -> list[str]:
    """The events of a training that state did not act on."""
    return [
        line["routing_key"]
        for line in stack.processes["state"].lines()
        if line["event"] == "delivery.ignored" and line["training_id"] == training_id
    ]


async def test_elsewhere_no_public_event_is_made_up_unasked(elsewhere, stack, user):
    async with stack.broker.subscribed(EVENTS_EXCHANGE, "#") as queue:
        code, out, err = await elsewhere.run("trigger", "model.activated", "--user", user)
        allowed = await elsewhere.run("trigger", "model.withdrawn", "--user", user, "--yes")
        messages = await heard(stack, queue, user, 1)

    assert (code, out) == (1, "")
    assert "is not the simulated Replicate, so real subscribers may act" in err
    assert err.splitlines()[-1] == "Next: the same command with --yes"
    assert allowed[0] == 0
    assert [message.headers["ce-type"] for message in messages] == ["dev.modelswap.model.withdrawn.v1"]


class Hook:
    """A developer's own server, which is not up to the first request."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = b"503 Service Unavailable" if len(self.requests) == 1 else b"204 No Content"
        writer.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        if len(self.requests) > 1:
            self.taken.set()


async def test_listen_forwards_a_swap_signed_until_accepted(shell, user):
    hook = Hook()
    async with await asyncio.start_server(hook.answer, "127.0.0.1", 0) as server, asyncio.timeout(240):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        arguments = ("listen", "--types", "*.activated", "--forward-to", url, "-o", "json")
        async with shell.started(*arguments) as listener:
            assert (await listener.stderr.readline()).startswith(b"listening")
            signed_with = (await listener.stderr.readline()).decode()
            await run(shell, "training.succeeded", "--user", user, "--destination", f"acme/{user}")

            said: dict[str, Any] = json.loads(await listener.stdout.readline())
            await hook.taken.wait()
            attempts = [(await listener.stderr.readline()).decode() for _ in range(2)]

    (secret,) = re.findall(r"signed with (whsec_\S+) ", signed_with)
    assert (said["type"], said["subject"]) == ("dev.modelswap.model.activated.v1", user)
    assert "trigger" not in said
    assert [attempt.split(": ")[-1].split("; again")[0].strip() for attempt in attempts] == ["503", "204, delivered"]
    for headers, body in hook.requests:
        assert json.loads(body) == said["data"]
        assert headers["ce-id"] == headers["webhook-id"] == said["id"]
        verify(
            [secret],
            message_id=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signatures=headers["webhook-signature"],
            body=body,
            now=now().timestamp(),
        )
