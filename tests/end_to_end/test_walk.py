"""From the product's request to the user's new model, through every process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from services.simulator.faults import FaultOrder
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.topology import EXTRACTOR_QUEUE, PROGRESS_QUEUE, STATE_QUEUE
from shared.replicate.signature import sign
from shared.runtime.clock import now
from tests.broker import Message
from tests.databases import logged_in
from tests.end_to_end.conftest import SELF_STARTED
from tests.servers import Urls
from tests.stack import (
    OPS_TOKEN,
    READER_TOKEN,
    REPLICATE_TOKEN,
    SERVICES,
    WEBHOOK_SECRET,
    Process,
    Stack,
    insist,
    plain_client,
    post,
)

TRAINER: Final = f"ostris/flux-dev-lora-trainer:{'e' * 64}"
FIXTURES: Final = Path(__file__).parent.parent / "fixtures" / "webhooks"


async def start(
    stack: Stack, user: str, *, destination: str = "", trigger_word: str = "TOK", trainer: str = TRAINER
) -> dict[str, Any]:
    """Start a training as the product does."""
    body = {
        "user_id": user,
        "destination": destination or f"acme/{user}",
        "trainer": trainer,
        "trigger_word": trigger_word,
        "input": {"steps": 1000, "input_images": "https://example.com/photos.zip"},
    }
    answer = await post(stack.api, "/v1/trainings", body)
    assert answer.status_code == 201, answer.text
    started: dict[str, Any] = answer.json()
    return started


async def register(stack: Stack, training_id: str, user: str, destination: str) -> httpx.Response:
    """Register a training that the product started by itself."""
    body = {"user_id": user, "destination": destination}
    return await insist(lambda: stack.api.put(f"/v1/trainings/{training_id}", json=body))


async def deliver(stack: Stack, body: bytes, message_id: str, *, path: str = "/webhooks/replicate") -> httpx.Response:
    """Post *body* as Replicate does, again until it is taken."""
    return await insist(lambda: post_webhook(stack, body, message_id, path=path))


async def post_webhook(
    stack: Stack, body: bytes, message_id: str, *, path: str = "/webhooks/replicate"
) -> httpx.Response:
    """Post *body* once."""
    async with plain_client(base_url=stack.url("receiver")) as client:
        return await client.post(path, content=body, headers=signed_headers(body, message_id))


def signed_headers(body: bytes, message_id: str) -> dict[str, str]:
    """Replicate's signature of *body*."""
    at = int(now().timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(WEBHOOK_SECRET, message_id, at, body),
    }


async def told(stack: Stack, queue: str, user: str, generation: int) -> Message:
    """Take the event of this swap from *queue*: those of earlier swaps may come only now, after their commits."""
    while True:
        message = await stack.broker.wait_for(queue)
        event = json.loads(message.body)
        if (event["user_id"], event["generation"]) == (user, generation):
            return message


@pytest.fixture
async def user() -> str:
    """A user whom nobody knows yet."""
    return f"user-{uuid4().hex[:8]}"


async def test_a_started_training_becomes_the_users_model(stack: Stack, user: str):
    begun = await start(stack, user)
    none_yet = await stack.model(user)

    ended = await stack.until_stage(begun["training_id"], "active")
    model = await stack.model(user)

    assert none_yet is None
    assert ended["progress"] == 100
    assert model is not None
    assert model["reference"].startswith(f"acme/{user}:")
    assert model["training_id"] == begun["training_id"]
    assert model["trigger_word"] == "TOK"
    assert None not in model.values()


async def test_a_failed_retrain_leaves_the_old_model(stack: Stack, simulator: Simulator, user: str):
    first = await start(stack, user)
    await stack.until_stage(first["training_id"], "active")
    before = await stack.model(user)
    simulator.order(FaultOrder.model_validate({"outcome": Status.FAILED, "error": "CUDA out of memory"}))

    second = await start(stack, user)
    failed = await stack.until_stage(second["training_id"], "failed")

    assert await stack.model(user) == before
    assert failed["failure"]["reason"] == "CUDA out of memory"
    assert failed["progress"] < 100


async def test_the_old_model_answers_until_the_new_one_is_committed(stack: Stack, user: str):
    first = await start(stack, user)
    await stack.until_stage(first["training_id"], "active")
    old = await stack.model(user)
    second = await start(stack, user)

    seen = []
    while (current := await stack.model(user)) == old:
        seen.append(current)
        await asyncio.sleep(0.01)

    history = (await stack.api.get(f"/v1/users/{user}/model/history")).json()["items"]
    assert seen
    assert current is not None
    assert current["training_id"] == second["training_id"]
    assert [each["training_id"] for each in history] == [second["training_id"], first["training_id"]]


async def test_every_commit_is_told_to_whoever_subscribes(stack: Stack, user: str):
    async with stack.broker.subscribed(EVENTS_EXCHANGE, "model.activated.v1") as queue:
        begun = await start(stack, user)
        message = await told(stack, queue, user, 1)
    model = await stack.model(user)

    event = json.loads(message.body)
    assert model is not None
    assert (event["model"], event["training_id"]) == (model["reference"], begun["training_id"])
    assert message.headers["ce-type"] == "dev.modelswap.model.activated.v1"


async def test_a_version_that_is_not_there_yet_is_waited_for(stack: Stack, simulator: Simulator, user: str):
    simulator.order(FaultOrder.model_validate({"version_late_calls": 3}))
    begun = await start(stack, user)

    ended = await stack.until_stage(begun["training_id"], "active")

    assert ended["current"] is True


async def test_a_version_of_somebody_elses_model_never_becomes_current(stack: Stack, simulator: Simulator, user: str):
    simulator.order(FaultOrder.model_validate({"foreign_version": True}))
    begun = await start(stack, user)

    ended = await stack.until_stage(begun["training_id"], "unverified")
    letter = await stack.dead_letter(begun["training_id"])

    assert await stack.model(user) is None
    assert ended["failure"]["code"] == "destination_mismatch"
    assert (letter["error_code"], letter["queue"]) == ("destination_mismatch", EXTRACTOR_QUEUE)
    async with asyncio.timeout(60):
        while (await stack.dead_letter(begun["training_id"]))["user_id"] != user:
            await asyncio.sleep(0.1)


async def test_duplicates_late_and_reordered_webhooks_have_one_effect(stack: Stack, simulator: Simulator, user: str):
    simulator.order(
        FaultOrder.model_validate({"duplicate": 3, "reorder": True, "late_logs_seconds": 30, "huge_logs": 300_000})
    )
    begun = await start(stack, user)
    await stack.until_stage(begun["training_id"], "active")
    await simulator.settled()
    for queue in (EXTRACTOR_QUEUE, STATE_QUEUE, PROGRESS_QUEUE):
        await stack.broker.until(queue, 0)

    history = (await stack.api.get(f"/v1/users/{user}/model/history")).json()["items"]
    ended = await stack.training(begun["training_id"])
    assert await stack.dead_letters(training_id=begun["training_id"]) == []
    assert len(history) == 1
    assert (ended["stage"], ended["progress"]) == ("active", 100)


#: What each recorded webhook does to a training that was registered before.
EFFECTS: Final = {
    "01-start-docs.json": ("running", None),
    "02-start-created.json": ("running", None),
    "03-logs-download.json": ("running", None),
    "04-logs-config-dump.json": ("running", None),
    "05-logs-training.json": ("running", None),
    "06-output-weights-only.json": ("running", None),
    "07-completed-succeeded.json": ("active", "river-9/portrait_flux"),
    "08-completed-docs-placeholder.json": ("unverified", None),
    "09-failed-validation.json": ("failed", None),
    "10-failed-image-build.json": ("failed", None),
    "11-failed-traceback.json": ("failed", None),
    "12-canceled-before-run.json": ("canceled", None),
    "13-canceled-midway.json": ("canceled", None),
    "14-aborted.json": ("canceled", None),
    "16-data-removed.json": ("unverified", None),
    "18-completed-large-logs.json": ("active", "acme/u-42"),
    "19-completed-bad-timestamp.json": ("active", "acme/u-42"),
    "21-succeeded-unknown-fields.json": ("active", "acme/u-42"),
}


async def test_every_recorded_webhook_has_its_effect(stack: Stack, user: str):
    for number, (file, (stage, model)) in enumerate(EFFECTS.items()):
        # The recorded bodies share ids: each gets one of its own, and is signed anew.
        body = json.loads((FIXTURES / file).read_bytes()) | {"id": f"recorded{number}"}
        destination = model or "acme/u-42"
        registered = await register(stack, f"recorded{number}", f"user-{number}", destination)
        answer = await deliver(stack, json.dumps(body).encode(), f"msg-{number}")
        assert (registered.is_success, answer.status_code) == (True, 202), file

        await stack.until_stage(f"recorded{number}", stage)

        current = await stack.model(f"user-{number}")
        assert (current and f"{current['owner']}/{current['name']}") == model, file


async def test_late_logs_after_the_completion_change_nothing(stack: Stack, user: str):
    destination = "river-9/portrait_flux"
    completed = (FIXTURES / "07-completed-succeeded.json").read_bytes()
    name = json.loads(completed)["id"]
    await register(stack, name, user, destination)
    await deliver(stack, completed, "msg-1")
    before = await stack.until_stage(name, "active")

    await deliver(stack, (FIXTURES / "15-late-logs-after-completed.json").read_bytes(), "msg-2")
    await deliver(stack, completed, "msg-1")
    # Behind these in the same queues: once it has arrived, they have as well.
    await register(stack, "behind", user, destination)
    await deliver(stack, b'{"id":"behind","status":"failed","error":"x"}', "msg-3")
    await stack.until_stage("behind", "failed")

    after = await stack.training(name)
    history = (await stack.api.get(f"/v1/users/{user}/model/history")).json()["items"]
    assert after == before
    assert len(history) == 1


async def test_a_prediction_posted_to_the_same_address_changes_nothing(stack: Stack):
    body = (FIXTURES / "17-prediction-not-training.json").read_bytes()

    answer = await deliver(stack, body, "msg-1")
    letter = await stack.dead_letter(json.loads(body)["id"])

    assert answer.status_code == 202
    assert letter["queue"] in {EXTRACTOR_QUEUE, STATE_QUEUE}


async def test_a_training_started_by_the_product_is_found_by_its_ref(stack: Stack, user: str):
    answer = await stack.api.post(
        "/v1/trainings",
        json={"user_id": user, "destination": "acme/u-42", "trainer": TRAINER, "input": {}, "start": False},
    )
    address = answer.json()["webhook_url"]
    path = httpx.URL(address).raw_path.decode()
    said = {"id": "mine", "status": "succeeded", "output": {"version": SELF_STARTED}, "webhook": address}
    body = json.dumps(said).encode()

    await deliver(stack, body, "msg-1", path=path)

    ended = await stack.until_stage(answer.json()["ref"], "active")
    model = await stack.model(user)
    assert ended["training_id"] == "mine"
    assert model is not None
    assert model["reference"] == f"acme/u-42:{SELF_STARTED}"


async def test_an_unregistered_training_becomes_a_dead_letter(stack: Stack):
    await deliver(stack, b'{"id":"stranger","status":"failed","error":"x"}', "msg-1")

    letter = await stack.dead_letter("stranger")

    assert letter["error_code"] == "unknown_training"
    assert letter["attempts"] > 1


async def test_a_registration_that_comes_after_its_webhook_is_found(stack: Stack, user: str):
    async def registered_after(training_id: str) -> dict[str, Any] | None:
        body = json.dumps({"id": training_id, "status": "failed", "error": "too few images"})
        await deliver(stack, body.encode(), f"msg-{training_id}")
        await register(stack, training_id, user, "acme/u-1")
        while not await stack.dead_letters(training_id=training_id):
            if (found := await stack.training(training_id))["stage"] == "failed":
                return found
            await asyncio.sleep(0.1)
        return None

    for number in range(20):
        # On a busy machine, it may come after the last retry as well.
        if ended := await registered_after(f"early{number}"):
            break

    assert ended is not None
    assert ended["failure"]["reason"] == "too few images"


async def test_no_secret_is_in_any_log(stack: Stack, servers: Urls):
    begun = await start(stack, "user-1")
    await stack.until_stage(begun["training_id"], "active")
    names = ("REF_SECRETS", "API_TOKENS", "OPS_TOKENS", "AMQP_URL", "DATABASE_URL")
    secrets = {process.environment[f"MODELSWAP_{name}"] for process in stack.processes.values() for name in names}
    logins = [
        *(process.environment["MODELSWAP_AMQP_URL"] for process in stack.processes.values()),
        *(logged_in(servers.database_url, name) for name in ("owner", "state", "ops", "notifier")),
    ]
    secrets |= {url.partition("@")[0].rpartition(":")[2] for url in logins}

    stopped = {name: process.stop() for name, process in stack.processes.items()}
    logged = "\n".join(process.log.read_text() for process in stack.processes.values())
    for process in stack.processes.values():
        process.start()
    await stack.until_ready()

    assert stopped == dict.fromkeys(SERVICES, 0)
    assert "process.stopped" in logged
    for secret in (*secrets, OPS_TOKEN, READER_TOKEN, WEBHOOK_SECRET, REPLICATE_TOKEN):
        assert secret not in logged


@pytest.mark.parametrize("service", SERVICES)
async def test_a_process_without_its_settings_names_them_all(service: str, tmp_path: Path):
    process = Process(service, {"MODELSWAP_RETRY_DELAYS": "soon"}, tmp_path / "log")
    process.start()

    while process.is_alive:
        await asyncio.sleep(0.05)

    assert process.stop() == 2
    said = process.log.read_text()
    assert "MODELSWAP_AMQP_URL is missing" in said
    assert "MODELSWAP_RETRY_DELAYS: " in said
