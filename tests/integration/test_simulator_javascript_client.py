"""The official JavaScript client takes the simulator for Replicate. Skipped where there is no node or no package."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.simulator.app import running
from services.simulator.faults import FaultOrder
from services.simulator.simulator import Simulator
from tests.tools import node_modules

PACKAGE = "replicate@1.4.0"
SCRIPT = Path(__file__).with_name("simulator_client.cjs")
OFFICIAL = "black-forest-labs/flux-schnell"
NOT_FOUND = '{"detail":"The requested resource could not be found.","status":404}'


class Calls:
    """What the calls of the script came to, by name."""

    def __init__(self, lines: str) -> None:
        self._calls: dict[str, Any] = {each["call"]: each for each in map(json.loads, lines.splitlines())}

    def result(self, name: str) -> Any:
        assert "error" not in self._calls[name], self._calls[name]
        return self._calls[name]["result"]

    def error(self, name: str) -> tuple[int | None, str]:
        error = self._calls[name]["error"]
        return error.get("status"), error["message"]


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder of node's modules that has the client; it stays for later runs."""
    return node_modules(PACKAGE)


@pytest.fixture(scope="module")
async def calls(modules: Path) -> Calls:
    simulator = Simulator(speed=1000, boot_seconds=5, duration_seconds=20, auto_destinations=False)
    simulator.order(FaultOrder(destination="acme/slow", duration_seconds=1_000_000))
    simulator.order(FaultOrder(destination="acme/stuck", prediction="never_starts"))
    async with running(simulator) as url, asyncio.timeout(240):
        process = await asyncio.create_subprocess_exec(
            *("node", SCRIPT, f"{url}/v1"),
            env={**os.environ, "NODE_PATH": str(modules)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, complained.decode()
    return Calls(said.decode())


def test_the_account_its_hardware_and_its_secret(calls):
    assert calls.result("accounts.current")["username"] == "modelswap"
    assert {"name": "Nvidia T4 GPU", "sku": "gpu-t4"} in calls.result("hardware.list")
    assert calls.result("webhooks.default.secret.get")["key"].startswith("whsec_")


def test_models_are_created_got_listed_and_found(calls):
    created = calls.result("models.create")

    assert created == calls.result("models.get")
    assert (created["url"], created["description"]) == ("https://replicate.com/acme/u-42", "faces")
    assert (created["run_count"], created["latest_version"]) == (0, None)
    assert calls.error("models.create again")[0] == 409
    for listing in ("models.list", "models.search"):
        assert [model["name"] for model in calls.result(listing)["results"]] == ["flux-schnell"]


def test_a_training_is_created_got_listed_and_canceled(calls):
    created, ended = calls.result("trainings.create"), calls.result("trainings.get")

    assert created["status"] == "starting"
    assert (ended["id"], ended["status"]) == (created["id"], "succeeded")
    assert ended["output"]["version"].startswith("acme/u-42:")
    assert [training["id"] for training in calls.result("trainings.list")["results"]] == [created["id"]]
    assert calls.result("trainings.cancel")["status"] == "canceled"
    assert [len(page) for page in calls.result("trainings.paginate")] == [2]


def test_a_webhook_that_is_sent_passes_the_clients_validation(calls):
    sent = calls.result("webhook")

    assert (sent["id"], sent["status"]) == (calls.result("trainings.create")["id"], "succeeded")
    assert calls.result("validateWebhook") is True
    assert calls.result("validateWebhook changed") is False


def test_versions_are_listed_and_got(calls):
    version = calls.result("models.versions.get")

    assert calls.result("models.versions.list")["results"] == [version]
    assert calls.result("trainings.get")["output"]["version"] == f"acme/u-42:{version['id']}"


def test_a_prediction_is_created_got_waited_for_and_canceled(calls):
    ended = calls.result("wait")

    assert calls.result("predictions.create")["id"] == ended["id"]
    assert ended["status"] == "succeeded"
    assert ended == calls.result("predictions.get")
    assert calls.result("predictions.create blocking")["status"] == "succeeded"
    assert calls.result("predictions.create for a second")["status"] == "succeeded"
    assert calls.result("predictions.cancel")["status"] == "canceled"
    assert len(calls.result("predictions.list")["results"]) == 5


def test_only_an_official_model_runs_by_its_name(calls):
    official = calls.result("predictions.create official")
    status, message = calls.error("predictions.create unofficial")

    assert (official["status"], official["model"], official["version"]) == ("succeeded", OFFICIAL, "hidden")
    assert status == 404
    assert NOT_FOUND in message


@pytest.mark.parametrize("name", ["run", "run polling", "run official"])
def test_a_model_is_run_to_its_output(calls, name):
    (address,) = calls.result(name)

    assert address.endswith("/out-0.png")


def test_a_model_that_can_not_stream_says_so(calls):
    assert calls.error("stream") == (None, "Prediction does not support streaming")


@pytest.mark.parametrize("name", ["trainings.get unknown", "predictions.get unknown", "models.get unknown"])
def test_what_is_not_there_is_404(calls, name):
    status, message = calls.error(name)

    assert status == 404
    assert NOT_FOUND in message


def test_errors_have_their_status_and_detail(calls):
    nowhere, invalid, stranger = map(
        calls.error, ("trainings.create into nothing", "predictions.create invalid", "without its token")
    )

    assert nowhere[0] == 404
    assert "The specified training destination does not exist" in nowhere[1]
    assert invalid[0] == 422
    assert "prompt" in invalid[1]
    assert stranger[0] == 401
    assert "Unauthenticated" in stranger[1]
