"""What failed is repaired, calmly: looked at, replayed in steps, each letter once, and taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from deploy.local import Servers
from shared.contract.errors import PermanentError
from shared.contract.identity import ModelName
from shared.contract.topology import STATE_QUEUE, topology
from shared.runtime.broker import Delivery, Publisher, dead_letter, to_message
from tests.end_to_end import test_walk
from tests.end_to_end.conftest import RECORDED, SELF_STARTED, open_stack
from tests.end_to_end.test_walk import deliver
from tests.shell import Shell
from tests.stack import READER_TOKEN, Process, Stack, insist, plain_client, post
from tests.state import NOON, model_of, ready

BROKEN: Final = "tests.end_to_end.broken_extractor"
VICTIMS: Final = 200
#: Those of them that had a model before.
RETRAINED: Final = 5
MANY: Final = 1000
#: So many that ops can be killed in the middle.
INTERRUPTED: Final = 60


async def in_parallel(work: Callable[[str], Awaitable[object]], names: Sequence[str]) -> None:
    slots = asyncio.Semaphore(16)

    async def one(name: str) -> None:
        async with slots:
            await work(name)

    await asyncio.gather(*map(one, names))


async def register(stack: Stack, training: str, user: str) -> None:
    answer = await test_walk.register(stack, training, user, f"acme/{user}")
    assert answer.is_success, answer.text


async def succeed(stack: Stack, training: str, user: str, version: str = RECORDED) -> None:
    """Replicate says that a training made a version."""
    body = json.dumps({"id": training, "status": "succeeded", "output": {"version": f"acme/{user}:{version}"}})
    answer = await deliver(stack, body.encode(), f"msg-{training}")
    assert answer.status_code == 202, answer.text


@contextlib.asynccontextmanager
async def planted_bug(stack: Stack) -> AsyncIterator[None]:
    """An extractor runs whose parser is broken; afterwards the mended one is deployed."""
    mended = stack.processes["extractor"]
    broken = mended.with_module(BROKEN)
    await deploy(stack, broken, instead_of=mended)
    try:
        yield
    finally:
        await deploy(stack, mended, instead_of=broken)


async def deploy(stack: Stack, extractor: Process, *, instead_of: Process) -> None:
    instead_of.stop()
    stack.processes["extractor"] = extractor
    extractor.start()
    await stack.until_ready("extractor")


async def ask(stack: Stack, path: str, **query: Any) -> Any:
    answer = await insist(lambda: stack.ops.get(f"/v1{path}", params=query))
    answer.raise_for_status()
    return answer.json()


async def ask_state(stack: Stack, path: str) -> Any:
    answer = await insist(lambda: stack.api.get(f"/v1{path}"))
    answer.raise_for_status()
    return answer.json()


async def say(stack: Stack, path: str, body: dict[str, Any], **headers: str) -> Any:
    answer = await post(stack.ops, f"/v1{path}", body, **headers)
    assert answer.is_success, answer.text
    return answer.json()


async def until(stack: Stack, replay: dict[str, Any], *statuses: str, seconds: float = 180) -> dict[str, Any]:
    """Wait until the replay has one of *statuses*, whoever is dead meanwhile."""
    seen: dict[str, Any] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while seen.get("status") not in statuses:
                await asyncio.sleep(0.1)
                with contextlib.suppress(httpx.HTTPError):
                    seen = await ask(stack, f"/replays/{replay['id']}")
    assert seen.get("status") in statuses, seen
    return seen


async def letters_of(stack: Stack, replay: dict[str, Any]) -> list[dict[str, Any]]:
    """All letters of a replay, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        page = await ask(stack, f"/replays/{replay['id']}/letters", **query)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def until_open(stack: Stack, count: int, **query: str) -> list[dict[str, Any]]:
    """Wait until so many letters are open."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(180):
        while len(found) < count:
            await asyncio.sleep(0.1)
            found = (await ask(stack, "/dead-letters", status="open", limit=200, **query))["items"]
    assert len(found) == count
    return found


async def until_undone(stack: Stack, replay: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(180):
        while True:
            found = await ask(stack, f"/replays/{replay['id']}")
            if found["undo"]["status"] == "undone":
                undone: dict[str, Any] = found["undo"]
                return undone
            await asyncio.sleep(0.05)


async def told(stack: Stack, replay: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The audit of a replay, from its beginning."""
    entries = (await ask(stack, "/audit", target=f"replay {replay['id']}"))["items"]
    return [(each["actor"], each["action"], each["outcome"]) for each in reversed(entries)]


async def test_a_bug_that_hit_two_hundred_is_mended_replayed_and_undone(stack: Stack):
    users = [f"victim-{uuid4().hex[:8]}" for _ in range(VICTIMS)]
    retrained = users[:RETRAINED]
    await in_parallel(lambda user: register(stack, f"first-{user}", user), retrained)
    await in_parallel(lambda user: succeed(stack, f"first-{user}", user, SELF_STARTED), retrained)
    for user in retrained:
        await stack.until_stage(f"first-{user}", "active")
    await in_parallel(lambda user: register(stack, f"t-{user}", user), users)

    async with planted_bug(stack):
        await in_parallel(lambda user: succeed(stack, f"t-{user}", user), users)
        (example, *_) = await until_open(stack, VICTIMS, error_class="NoModel")
    groups = (await ask(stack, "/dead-letter-groups", status="open"))["items"]

    group = example["fingerprint"]
    assert [(each["fingerprint"], each["open"]) for each in groups] == [(group, VICTIMS)]

    # A look at what would happen changes nothing.
    asked = {"group": group, "reason": "the parser is mended", "rate_per_second": 500}
    planned = await say(stack, "/replays", {**asked, "dry_run": True})
    planned = await until(stack, planned, "previewed")
    looked = {each["user_id"]: each for each in await letters_of(stack, planned)}

    assert planned["predictions"] == {"swapped": VICTIMS}
    assert looked[users[0]]["predicted_detail"] == (
        f"user {users[0]}: acme/{users[0]}:{SELF_STARTED} → acme/{users[0]}:{RECORDED}"
    )
    assert looked[users[-1]]["predicted_detail"] == f"user {users[-1]}: no model → acme/{users[-1]}:{RECORDED}"
    assert await stack.model(users[-1]) is None
    assert len(await until_open(stack, VICTIMS, fingerprint=group)) == VICTIMS

    # Just these are replayed.
    await say(stack, f"/replays/{planned['id']}/start", {"reason": "looks good"})
    done = await until(stack, planned, "done")
    current = {user: await stack.model(user) for user in users}
    history = (await stack.api.get(f"/v1/users/{users[0]}/model/history")).json()["items"]

    assert done["outcomes"] == {"swapped": VICTIMS}
    assert done["steps"] == [1, 11, VICTIMS]
    assert {user for user, model in current.items() if model and model["version"] == RECORDED} == set(users)
    assert [each["cause"] for each in history] == ["replay", "training"]
    assert await ask(stack, "/dead-letters", status="open", fingerprint=group) == {"items": [], "next_cursor": None}

    # One moves on by a training of their own; of the others, those with an earlier model have it again, the rest none.
    await register(stack, f"newer-{users[0]}", users[0])
    await succeed(stack, f"newer-{users[0]}", users[0], SELF_STARTED)
    await stack.until_stage(f"newer-{users[0]}", "active")
    await say(stack, f"/replays/{planned['id']}/undo", {"reason": "they are all blurred"})
    undone = await until_undone(stack, planned)
    why = {each["user_id"]: each["undo_detail"] for each in await letters_of(stack, planned) if each["undo"] == "kept"}
    reverted, none = await stack.model(users[1]), [await stack.model(user) for user in users[RETRAINED:]]

    assert (undone["reverted"], undone["kept"]) == (VICTIMS - 1, 1)
    assert list(why) == users[:1]
    assert "generation" in why[users[0]]
    assert reverted is not None
    assert reverted["version"] == SELF_STARTED
    assert none == [None] * (VICTIMS - RETRAINED)
    assert await told(stack, planned) == [
        ("olga", "replay.planned", f"{VICTIMS} dead letters, 0 skipped"),
        ("olga", "replay.started", f"{VICTIMS} dead letters, 0 skipped"),
        ("ops", "replay.done", f"{VICTIMS} done, 0 failed"),
        ("olga", "replay.undo_started", ""),
        ("olga", "replay.undone", f"{VICTIMS - 1} users reverted, 1 kept"),
    ]


async def test_a_first_model_that_a_replay_set_is_withdrawn_by_its_undo(stack: Stack):
    user = f"user-{uuid4().hex[:8]}"
    older, newer = f"older-{user}", f"newer-{user}"
    await register(stack, older, user)
    await set_aside(stack, [user])
    (letter,) = await until_open(stack, 1, training_id=user)
    await register(stack, user, user)
    replay = await say(stack, "/replays", {"letters": [letter["number"]], "reason": "registered now"})
    await until(stack, replay, "done")
    was = await stack.model(user)

    async with stack.broker.subscribed("modelswap.events", "model.withdrawn.v1") as queue:
        await say(stack, f"/replays/{replay['id']}/undo", {"reason": "not hers"})
        undone = await until_undone(stack, replay)
        event = json.loads((await test_walk.told(stack, queue, user, 3)).body)
    gone = await stack.model(user)
    await succeed(stack, older, user, SELF_STARTED)
    late = await stack.until_stage(older, "active", "superseded")
    still = await stack.model(user)
    offered = await stack.api.post(f"/v1/users/{user}/model/rollback", json={"reason": "of a test"})
    await register(stack, newer, user)
    await succeed(stack, newer, user, SELF_STARTED)
    await stack.until_stage(newer, "active")
    now = await stack.model(user)
    async with asyncio.timeout(60):
        while not (audit := (await ask(stack, "/audit", target=f"user {user}"))["items"]):
            await asyncio.sleep(0.05)

    assert was is not None
    assert (undone["reverted"], undone["kept"]) == (1, 0)
    assert (event["user_id"], event["previous"], event["generation"]) == (user, was["reference"], 3)
    assert (gone, still, late["stage"]) == (None, None, "superseded")
    assert (offered.status_code, offered.json()["title"]) == (404, "no-model")
    assert now is not None
    assert (now["training_id"], now["generation"]) == (newer, 4)
    assert [(each["actor"], each["action"], each["reason"]) for each in audit] == [
        ("olga", "model.withdrawn", f"undo of replay {replay['id']}: not hers")
    ]


async def test_an_old_letter_undoes_nothing_and_a_letter_that_failed_again_is_replayed_again(stack: Stack):
    late, again = (f"user-{uuid4().hex[:8]}" for _ in range(2))
    for user in (late, again):
        await register(stack, f"t-{user}", user)
    async with planted_bug(stack):
        for user in (late, again):
            await succeed(stack, f"t-{user}", user)
        found = {each["training_id"]: each["number"] for each in await until_open(stack, 2, error_class="NoModel")}
        # The bug is not mended yet.
        early = await say(stack, "/replays", {"letters": [found[f"t-{again}"]], "reason": "perhaps it heals"})
        failed = await until(stack, early, "done")
        (letter,) = await letters_of(stack, early)
    await register(stack, f"newer-{late}", late)
    await succeed(stack, f"newer-{late}", late, SELF_STARTED)
    await stack.until_stage(f"newer-{late}", "active")
    before = await stack.model(late)

    # A double click, too.
    body = {"letters": sorted(found.values()), "reason": "the parser is mended", "steps": ["rest"]}
    key = str(uuid4())
    clicks = await asyncio.gather(*(say(stack, "/replays", body, **{"Idempotency-Key": key}) for _ in range(3)))
    done = await until(stack, clicks[0], "done")
    outcomes = {each["user_id"]: each for each in await letters_of(stack, done)}
    returned = await ask(stack, f"/dead-letters/{found[f't-{again}']}")

    assert (failed["outcomes"], letter["outcome"]) == ({"failed": 1}, "failed")
    assert len({each["id"] for each in clicks}) == 1
    assert done["outcomes"] == {"superseded": 1, "swapped": 1}
    assert outcomes[late]["detail"].startswith(f"superseded: user {late} uses a newer one")
    assert await stack.model(late) == before
    assert (returned["status"], returned["returns"]) == ("resolved", 1)


async def test_an_edited_letter_goes_and_the_letter_stays_as_it_was(stack: Stack):
    user = f"user-{uuid4().hex[:8]}"
    await register(stack, f"t-{user}", user)
    body = json.dumps({"id": f"t-{user}", "status": "succeeded", "output": {"version": "cut o"}}).encode()
    await deliver(stack, body, f"msg-{user}")
    (letter,) = await until_open(stack, 1, training_id=f"t-{user}")
    whole = await ask(stack, f"/dead-letters/{letter['number']}")
    data = json.loads(whole["body_text"])
    path = f"/dead-letters/{letter['number']}/edit-and-replay"

    refused = await stack.ops.post(f"/v1{path}", json={"body": {**data, "training_id": "x"}, "reason": "no"})
    mended = {**data, "output": {"version": f"acme/{user}:{RECORDED}"}}
    made = await say(stack, path, {"body": mended, "reason": "it was cut off"})
    done = await until(stack, made, "done")
    model = await stack.model(user)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/body/training_id"
    assert done["outcomes"] == {"swapped": 1}
    assert model is not None
    assert model["version"] == RECORDED
    assert (await ask(stack, f"/dead-letters/{letter['number']}"))["body_base64"] == whole["body_base64"]


async def test_whatever_dies_in_a_replay_of_a_thousand_each_letter_has_one_effect(
    restartable_servers: Servers, tmp_path: Path
):
    servers = restartable_servers
    names = [f"many-{number}" for number in range(MANY)]
    async with open_stack(tmp_path, servers) as (stack, _):
        await set_aside(stack, names)
        await in_parallel(lambda name: register(stack, name, name), names)
        asked = {"filter": {"queue": "modelswap.state"}, "reason": "they are registered now"}
        replay = await say(stack, "/replays", {**asked, "rate_per_second": 200, "steps": [1, "20%", "rest"]})

        await until_ended(stack, replay, 100)
        stack.processes["ops"].kill()
        stack.processes["ops"].start()
        await until_ended(stack, replay, 300)
        servers.rabbitmq.kill()
        servers.rabbitmq.start()
        await until_ended(stack, replay, 500)
        servers.postgres.kill()
        servers.postgres.start()
        await until_ended(stack, replay, 700)
        stack.processes["ops"].kill()
        stack.processes["ops"].start()
        done = await until(stack, replay, "done", seconds=240)
        table = await letters_of(stack, replay)
        database = await asyncpg.connect(stack.environment["MODELSWAP_DATABASE_URL"])
        swaps = await database.fetch("SELECT user_id, cause FROM state.model_history")
        await database.close()

    assert done["outcomes"] == {"swapped": MANY}
    assert Counter(each["outcome"] for each in table) == {"swapped": MANY}
    assert {each["user_id"] for each in table} == set(names)
    assert Counter(row["user_id"] for row in swaps) == dict.fromkeys(names, 1)
    assert {row["cause"] for row in swaps} == {"replay"}


async def test_whatever_of_undoing_and_of_a_dry_run_is_left_when_ops_dies_is_done_afterwards(stack: Stack):
    users = [f"user-{uuid4().hex[:8]}" for _ in range(INTERRUPTED)]
    await in_parallel(lambda user: register(stack, f"first-{user}", user), users)
    await in_parallel(lambda user: succeed(stack, f"first-{user}", user, SELF_STARTED), users)
    for user in users:
        await stack.until_stage(f"first-{user}", "active")
    await set_aside(stack, users)
    await until_open(stack, INTERRUPTED, error_code="unknown_training")
    await in_parallel(lambda user: register(stack, user, user), users)
    asked = {"filter": {"error_code": "unknown_training"}, "reason": "registered now", "rate_per_second": 40}

    replay = await say(stack, "/replays", {**asked, "dry_run": True})
    await kill_ops_when(stack, replay, lambda seen: sum(seen["predictions"].values()) > 0)
    previewed = await until(stack, replay, "previewed")
    still_open = await until_open(stack, INTERRUPTED, error_code="unknown_training")
    await say(stack, f"/replays/{replay['id']}/start", {"reason": "looks good"})
    await until(stack, replay, "done")
    await say(stack, f"/replays/{replay['id']}/undo", {"reason": "they are all blurred"})
    await kill_ops_when(stack, replay, lambda seen: seen["undo"]["reverted"] > 0)
    undone = await until_undone(stack, replay)
    histories = [(await ask_state(stack, f"/users/{user}/model/history"))["items"] for user in users]

    assert previewed["predictions"] == {"swapped": INTERRUPTED}
    assert {letter["training_id"] for letter in still_open} == set(users)
    assert (undone["reverted"], undone["kept"]) == (INTERRUPTED, 0)
    assert {tuple(each["cause"] for each in history) for history in histories} == {("rollback", "replay", "training")}
    assert [action for _, action, _ in await told(stack, replay)] == [
        "replay.planned",
        "replay.started",
        "replay.done",
        "replay.undo_started",
        "replay.undone",
    ]


async def kill_ops_when(stack: Stack, replay: dict[str, Any], is_time: Callable[[dict[str, Any]], bool]) -> None:
    """Kill ops in the middle of its work on *replay*, or after it on a busy machine, and start it again."""
    async with asyncio.timeout(60):
        while not is_time(await ask(stack, f"/replays/{replay['id']}")):
            await asyncio.sleep(0.02)
    stack.processes["ops"].kill()
    stack.processes["ops"].start()
    await stack.until_ready("ops")


async def set_aside(stack: Stack, names: Sequence[str]) -> None:
    """State has given up on models whose trainings nobody registered."""
    error = PermanentError("not registered", code="unknown_training")
    async with Publisher(stack.environment["MODELSWAP_AMQP_URL"], name="test", timeout_seconds=60) as publisher:
        for name in names:
            event = ready(name, model=model_of(name, ModelName("acme", name)))
            message = to_message(event, topology())
            delivery = Delivery(
                queue=STATE_QUEUE,
                tag=0,
                exchange=message.exchange,
                routing_key=message.routing_key,
                headers=message.headers,
                content_type=message.content_type,
                body=message.body,
            )
            await publisher.publish(dead_letter(delivery, error, now=NOON))
    async with asyncio.timeout(60):
        while (await ask(stack, "/dead-letter-counts"))["open"] < len(names):
            await asyncio.sleep(0.1)


async def until_ended(stack: Stack, replay: dict[str, Any], count: int) -> None:
    """Wait until so many letters have their outcome."""
    ended = 0
    async with asyncio.timeout(90):
        while ended < count:
            await asyncio.sleep(0.1)
            with contextlib.suppress(httpx.HTTPError):
                ended = (await ask(stack, f"/replays/{replay['id']}"))["ended"]


@pytest.fixture
def shell(stack: Stack) -> Shell:
    return Shell({**stack.environment, "MODELSWAP_OPS_URL": stack.url("ops")})


async def test_the_commands_do_it_all(stack: Stack, shell: Shell, tmp_path: Path):
    user = f"user-{uuid4().hex[:8]}"
    await register(stack, f"t-{user}", user)
    body = json.dumps({"id": f"t-{user}", "status": "succeeded", "output": {"version": "cut o"}}).encode()
    await deliver(stack, body, f"msg-{user}")
    (letter,) = await until_open(stack, 1, training_id=f"t-{user}")
    number = str(letter["number"])
    mended = tmp_path / "mended.json"
    mended.write_text(json.dumps({"training_id": f"t-{user}", "output": {"version": f"acme/{user}:{RECORDED}"}}))

    replay = ("dead-letters", "replay", number, "--reason", "of a test")
    looked = await shell.json(*replay, "--dry-run")
    _, read, said = await shell.run(*replay, "--dry-run")
    unasked, _, complaint = await shell.run(*replay)
    failed, watched, _ = await shell.run(*replay, "--yes", "--watch", "--steps", "rest")
    edit = await shell.json("dead-letters", "edit", number, "--reason", "it was cut off", "--body", str(mended))
    shown = await shell.json("replays", "show", edit["id"][:13], "--watch")
    undone = await shell.json("replays", "undo", edit["id"], "--reason", "of a test", "--watch")
    listed = await shell.json("replays", "list", "--limit", "100")
    again, _, why_not = await shell.run("replays", "undo", edit["id"], "--reason", "of a test")

    assert looked["of_letters"][0]["predicted_detail"].startswith("still fails")
    begun = said.split()[1].removesuffix(":")
    assert f"modelswap replays start {begun} --watch" in read
    assert (unasked, "--yes" in complaint) == (1, True)
    assert (failed, "1 failed" in watched) == (1, True)
    assert shown["outcomes"] == {"swapped": 1}
    assert shown["of_letters"][0]["edited"] is True
    assert (undone["undo"]["status"], undone["undo"]["reverted"]) == ("undone", 1)
    assert edit["id"] in {each["id"] for each in listed}
    assert (again, "nothing to undo" in why_not) == (1, True)


async def test_who_may_only_look_sees_everything_and_changes_nothing(stack: Stack):
    document = await ask(stack, "/openapi.json")
    routes = [(method, path) for path, methods in document["paths"].items() for method in methods]
    unknown = {name: str(uuid4()) for name in ("replay_id", "endpoint_id", "delivery_id")}
    ids = {**unknown, "number": "999999", "training_id": "t1", "name": "generator"}
    async with plain_client(
        base_url=f"{stack.url('ops')}/v1", headers={"Authorization": f"Bearer {READER_TOKEN}"}
    ) as reader:
        said = {
            (method, path): (await reader.request(method.upper(), path.format(**ids))).status_code
            for method, path in routes
        }

    assert len(said) > 20
    # A reader signs in to the console too, where it may look.
    writes = {each for each in routes if each[0] != "get"} - {("post", "/sign-in-codes")}
    assert {route for route, status in said.items() if status == 403} == writes
    assert 401 not in said.values()


async def test_what_needs_no_reason_needs_no_body(stack: Stack):
    replay = uuid4()

    said = {
        verb: await stack.ops.post(f"/v1/replays/{replay}/{verb}") for verb in ("start", "pause", "resume", "cancel")
    }

    assert {verb: answer.json()["title"] for verb, answer in said.items()} == dict.fromkeys(said, "no-replay")


async def test_a_look_that_state_refuses_is_refused_with_its_reason(stack: Stack):
    unknown = f"t-{uuid4().hex[:8]}"

    answer = await stack.ops.post(f"/v1/trainings/{unknown}/retry-extraction", json={"reason": "of a test"})
    refused, asked = (await ask(stack, "/audit", target=f"training {unknown}"))["items"]

    assert (answer.status_code, answer.json()["title"]) == (409, "retry-refused")
    assert unknown in answer.json()["detail"]
    assert [asked["outcome"], refused["outcome"]] == [
        "asked: another extraction",
        f"refused: {answer.json()['detail']}",
    ]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"reason": "nothing is selected"}, "#"),
        ({"reason": "two ways", "letters": [1], "group": "x"}, "#"),
        ({"reason": "all there are", "filter": {}}, "#/filter"),
        ({"reason": "not open", "filter": {"status": "dropped"}}, "#/filter"),
        ({"reason": "no step", "letters": [1], "steps": ["half"]}, "#/steps/0"),
        ({"reason": "no such group", "group": "a\x00"}, "#/group"),
        ({"reason": "no such group", "group": "x" * 300}, "#/group"),
        ({"reason": "no rate", "letters": [1], "rate_per_second": 0}, "#/rate_per_second"),
        ({"reason": "never", "letters": [1], "rate_per_second": 1e-300}, "#/rate_per_second"),
        ({"reason": "", "letters": [1]}, "#/reason"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_place(stack: Stack, body: dict[str, Any], pointer: str):
    answer = await stack.ops.post("/v1/replays", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_what_is_not_there_is_said(stack: Stack):
    nothing = await stack.ops.post("/v1/replays", json={"letters": [10**9], "reason": "none"})
    no_replay = await stack.ops.get(f"/v1/replays/{uuid4()}")
    no_steering = await stack.ops.post(f"/v1/replays/{uuid4()}/pause", json={})

    assert (nothing.status_code, nothing.json()["title"]) == (422, "nothing-selected")
    assert "there is no such dead letter" in nothing.json()["detail"]
    assert (no_replay.status_code, no_steering.status_code) == (404, 404)
