"""The simulated Replicate's HTTP API: Replicate's own words for what is so, what is not there, and what goes wrong."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.extractor.picture import find_flaw
from services.simulator.app import running
from services.simulator.simulator import Simulator
from shared.contract.errors import ModelswapError
from tests.stack import plain_client

TRAINER = f"/v1/models/ostris/flux-dev-lora-trainer/versions/{'e' * 64}/trainings"
TOKEN = {"Authorization": "Bearer r8_simulator"}
UNKNOWN_VERSION = "The specified version does not exist (or perhaps you don't have permission to use it?)"


class Held(Simulator):
    """Time stands until it is moved."""

    moment = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


@dataclass
class Replicate:
    simulator: Held
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        answer = await self.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def get(self, path: str, status: int = 200) -> Any:
        return await self.ask("GET", path, status=status)

    async def post(self, path: str, body: Any = None, status: int = 201, **headers: str) -> Any:
        return await self.ask("POST", path, body, status, **headers)

    def pass_time(self, seconds: float) -> None:
        self.simulator.moment += timedelta(seconds=seconds)

    async def train(self, destination: str = "acme/u-42", **more: Any) -> dict[str, Any]:
        training: dict[str, Any] = await self.post(TRAINER, {"destination": destination, "input": {}, **more})
        return training

    async def trained(self, **faults: Any) -> str:
        """The version of a training that has ended."""
        if faults:
            await self.post("/_simulator/faults", faults)
        training = await self.train()
        self.pass_time(1000)
        version: str = (await self.get(f"/v1/trainings/{training['id']}"))["output"]["version"]
        return version

    async def run(self, version: str, **headers: str) -> dict[str, Any]:
        body = {"version": version, "input": {"prompt": "a lake"}}
        prediction: dict[str, Any] = await self.ask("POST", "/v1/predictions", body, 201, **headers)
        return prediction


@pytest.fixture
async def replicate(request: pytest.FixtureRequest) -> AsyncIterator[Replicate]:
    simulator = Held(**getattr(request, "param", {}))
    async with (
        running(simulator) as url,
        plain_client(base_url=url, headers=TOKEN) as http,
    ):
        yield Replicate(simulator, http)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "r8_simulator"}])
async def test_a_caller_must_show_a_token(replicate, headers):
    async with plain_client(base_url=replicate.http.base_url) as anybody:
        answer = await anybody.get("/v1/account", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "title": "Unauthenticated",
        "detail": "You did not pass a valid authentication token",
        "status": 401,
    }


async def test_a_training_is_created_and_lives(replicate):
    created = await replicate.train()
    states = []
    for seconds in (0, 10, 600):
        replicate.pass_time(seconds)
        states.append((await replicate.get(f"/v1/trainings/{created['id']}"))["status"])

    assert (created["status"], created["logs"], created["output"]) == ("starting", "", None)
    assert created["model"] == "ostris/flux-dev-lora-trainer"
    assert created["version"] == "e" * 64
    assert "destination" not in created
    assert f"/v1/predictions/{created['id']}" in created["urls"]["get"]
    assert states == ["starting", "processing", "succeeded"]


async def test_a_training_is_a_prediction(replicate):
    created = await replicate.train()

    assert (await replicate.get(f"/v1/predictions/{created['id']}"))["id"] == created["id"]
    await replicate.post(f"/v1/predictions/{created['id']}/cancel", status=200)
    assert (await replicate.get(f"/v1/trainings/{created['id']}"))["status"] == "canceled"


@pytest.mark.parametrize("replicate", [{"auto_destinations": False}], indirect=True)
async def test_a_destination_must_be_created_first(replicate):
    model = {"owner": "acme", "name": "u-42", "visibility": "private", "hardware": "gpu-t4"}

    refused = await replicate.post(TRAINER, {"destination": "acme/u-42", "input": {}}, status=404)
    created = await replicate.post("/v1/models", model)
    again = await replicate.post("/v1/models", model, status=409)
    await replicate.train()

    assert refused == {"detail": "The specified training destination does not exist", "status": 404}
    assert (created["owner"], created["name"], created["latest_version"]) == ("acme", "u-42", None)
    assert again["errors"] == [{"detail": "A model with that name and owner already exists."}]


async def test_a_training_without_a_destination_is_refused(replicate):
    refused = await replicate.post(TRAINER, {"input": {}}, status=404)

    assert refused["detail"] == "The specified training destination does not exist"


@pytest.mark.parametrize(
    "body", [{}, {"destination": "a/b"}, {"destination": "a/b", "input": {}, "webhook_events_filter": ["end"]}]
)
async def test_a_request_that_makes_no_sense_is_refused(replicate, body):
    refused = await replicate.post(TRAINER, body, status=422)

    assert refused["title"] == "Input validation failed"


async def test_a_cancel_answers_at_once_without_logs(replicate):
    created = await replicate.train()
    replicate.pass_time(100)

    canceled = await replicate.post(f"/v1/trainings/{created['id']}/cancel", status=200)

    assert (canceled["status"], canceled["output"], canceled["logs"]) == ("canceled", None, None)


async def test_an_ended_training_can_not_be_canceled(replicate):
    created = await replicate.train()
    replicate.pass_time(1000)

    assert (await replicate.post(f"/v1/trainings/{created['id']}/cancel", status=200))["status"] == "succeeded"


async def test_trainings_are_listed_newest_first_without_logs(replicate):
    created = [(await replicate.train())["id"] for _ in range(205)]

    pages, url = [], "/v1/trainings"
    while url:
        pages.append(await replicate.get(url))
        url = pages[-1]["next"]
        await replicate.train()

    listed = [item["id"] for page in pages for item in page["results"]]
    assert [len(page["results"]) for page in pages] == [100, 100, 5]
    assert listed == created[::-1]
    assert all("logs" not in item for page in pages for item in page["results"])
    await replicate.get("/v1/trainings?cursor=nonsense", status=404)


async def test_a_version_says_what_it_takes(replicate):
    owner_name, version_id = (await replicate.trained()).split(":")
    version = await replicate.get(f"/v1/models/{owner_name}/versions/{version_id}")
    listed = await replicate.get(f"/v1/models/{owner_name}/versions")
    model = await replicate.get(f"/v1/models/{owner_name}")

    assert version["id"] == version_id
    assert version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]["prompt"]["type"] == "string"
    assert listed["results"] == [version]
    assert model["latest_version"] == version


async def test_a_version_may_take_no_prompt(replicate):
    owner_name, version_id = (await replicate.trained(no_prompt=True)).split(":")
    version = await replicate.get(f"/v1/models/{owner_name}/versions/{version_id}")

    assert "prompt" not in version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]


@pytest.mark.parametrize(
    "path", ["/v1/trainings/x", "/v1/predictions/x", "/v1/models/a/b", "/v1/models/a/b/versions", "/v1/nothing"]
)
async def test_what_is_not_there_is_a_problem(replicate, path):
    assert await replicate.get(path, status=404) == {
        "detail": "The requested resource could not be found.",
        "status": 404,
    }


async def test_a_late_version_is_not_found_then_found(replicate):
    owner_name, version_id = (await replicate.trained(version_late_calls=2)).split(":")
    path = f"/v1/models/{owner_name}/versions/{version_id}"

    await replicate.get(path, status=404)
    await replicate.post("/v1/predictions", {"version": version_id, "input": {"prompt": "x"}}, status=422)
    await replicate.get(path)


@pytest.mark.parametrize("form", ["{owner_name}:{version_id}", "{version_id}"])
async def test_a_run_ends_with_a_picture_that_anybody_can_fetch(replicate, form):
    owner_name, version_id = (await replicate.trained()).split(":")

    created = await replicate.run(form.format(owner_name=owner_name, version_id=version_id))
    replicate.pass_time(27)
    ended = await replicate.get(f"/v1/predictions/{created['id']}")
    async with plain_client() as anybody:
        image = await anybody.get(ended["output"][0])

    assert (created["status"], created["model"], created["version"]) == ("starting", owner_name, version_id)
    assert ended["status"] == "succeeded"
    assert image.headers["content-type"] == "image/png"
    assert find_flaw(image.content) is None


@pytest.mark.parametrize("version", ["0" * 64, "acme/u-42", f"acme/u-42:{'0' * 64}", "nonsense"])
async def test_an_unknown_version_does_not_run(replicate, version):
    refused = await replicate.post("/v1/predictions", {"version": version, "input": {"prompt": "x"}}, status=422)

    assert refused == {"title": "Invalid version or not permitted", "detail": UNKNOWN_VERSION, "status": 422}


@pytest.mark.parametrize(
    ("behaviour", "end", "error"),
    [
        ("fails", "failed", "CUDA out of memory. Tried to allocate 20.00 MiB"),
        ("unsafe", "failed", "NSFW content detected. Try running it again, or try a different prompt."),
        ("never_starts", "aborted", None),
        ("weights_gone", "aborted", None),
    ],
)
async def test_a_run_can_end_badly(replicate, behaviour, end, error):
    version = await replicate.trained(prediction=behaviour)
    created = await replicate.run(version, **{"Cancel-After": "5m"})
    replicate.pass_time(301)
    ended = await replicate.get(f"/v1/predictions/{created['id']}")

    assert (ended["status"], ended["error"], ended["output"]) == (end, error, None)


async def test_a_run_without_a_deadline_can_be_canceled(replicate):
    created = await replicate.run(await replicate.trained(prediction="weights_gone"))
    replicate.pass_time(1_000_000)

    waiting = await replicate.get(f"/v1/predictions/{created['id']}")
    canceled = await replicate.post(f"/v1/predictions/{created['id']}/cancel", status=200)

    assert waiting["status"] == "starting"
    assert "404" in waiting["logs"]
    assert canceled["status"] == "canceled"


async def test_a_deadline_must_make_sense(replicate):
    version = await replicate.trained()

    await replicate.post(
        "/v1/predictions", {"version": version, "input": {"prompt": "x"}}, status=422, **{"Cancel-After": "a while"}
    )


async def test_a_picture_is_not_there_before_the_end(replicate):
    created = await replicate.run(await replicate.trained())

    assert (await replicate.http.get(f"/delivery/{created['id']}/out-0.png")).status_code == 404


async def test_a_caller_may_wait_for_the_end():
    knobs: dict[str, Any] = {"speed": 1000, "boot_seconds": 1, "duration_seconds": 1, "prediction_boot_seconds": 20}
    simulator = Simulator(**knobs)
    async with (
        running(simulator) as url,
        plain_client(base_url=url, headers=TOKEN) as http,
    ):
        training = (await http.post(TRAINER, json={"destination": "acme/u-42", "input": {}})).json()
        async with asyncio.timeout(60):
            while training["status"] != "succeeded":
                training = (await http.get(f"/v1/trainings/{training['id']}")).json()
        body = {"version": training["output"]["version"], "input": {"prompt": "x"}}

        waited = await http.post("/v1/predictions", json=body, headers={"Prefer": "wait=5"})

    assert waited.status_code == 201
    assert waited.json()["status"] == "succeeded"


@pytest.mark.parametrize("replicate", [{"prediction_boot_seconds": 1000}], indirect=True)
async def test_a_caller_who_waited_in_vain_gets_what_there_is(replicate):
    version = await replicate.trained()

    waited = await replicate.post(
        "/v1/predictions", {"version": version, "input": {"prompt": "x"}}, status=202, Prefer="wait=1"
    )

    assert waited["status"] == "starting"


async def test_a_wait_that_times_out_answers_starting(replicate):
    body = {"version": await replicate.trained(), "input": {"prompt": "x"}}
    waiting = asyncio.create_task(replicate.post("/v1/predictions", body, status=202, Prefer="wait=1"))
    while not (listed := (await replicate.get("/v1/predictions"))["results"]):
        pass
    replicate.pass_time(25)

    waited = await waiting

    assert (waited["id"], waited["status"]) == (listed[0]["id"], "starting")
    assert (await replicate.get(f"/v1/predictions/{waited['id']}"))["status"] == "processing"


async def test_the_account_and_its_secret(replicate):
    assert (await replicate.get("/v1/account"))["username"] == "modelswap"
    assert await replicate.get("/v1/webhooks/default/secret") == {"key": replicate.simulator.secret}


async def test_calls_can_be_throttled(replicate):
    order = {"status": 429, "retry_after_header": "2", "retry_after_body": 5, "next": 2}
    await replicate.post("/_simulator/api-faults", order)

    answers = [await replicate.http.get("/v1/account") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "2"
    assert answers[0].json() == {"detail": "Request was throttled.", "retry_after": 5, "status": 429}


async def test_a_throttled_call_need_not_say_for_how_long(replicate):
    await replicate.post("/_simulator/api-faults", {"status": 429})

    answer = await replicate.http.get("/v1/account")

    assert "retry-after" not in answer.headers
    assert "retry_after" not in answer.json()


async def test_a_fault_can_be_one_routes_alone(replicate):
    await replicate.post("/_simulator/api-faults", {"status": 503, "route": "trainings.list"})

    await replicate.get("/v1/account")
    await replicate.get("/v1/trainings", status=503)
    await replicate.get("/v1/trainings")


async def test_a_fault_for_an_unknown_route_lists_the_known_ones(replicate):
    refused = await replicate.post("/_simulator/api-faults", {"status": 503, "route": "training.list"}, status=422)

    assert "trainings.list" in refused["detail"]


async def test_a_picture_can_be_withheld(replicate):
    created = await replicate.run(await replicate.trained())
    replicate.pass_time(27)
    path = f"/delivery/{created['id']}/out-0.png"
    await replicate.post("/_simulator/api-faults", {"status": 503, "route": "delivery"})

    answers = [(await replicate.http.get(path)).status_code for _ in range(2)]

    assert answers == [503, 200]


async def test_an_answer_can_be_lost_after_the_work_was_done(replicate):
    await replicate.post("/_simulator/api-faults", {"status": 502, "takes_effect": True, "route": "trainings.create"})

    await replicate.post(TRAINER, {"destination": "acme/u-42", "input": {}}, status=502)

    assert len((await replicate.get("/v1/trainings"))["results"]) == 1


async def test_a_call_that_failed_did_nothing(replicate):
    await replicate.post("/_simulator/api-faults", {"status": 502})

    await replicate.post(TRAINER, {"destination": "acme/u-42", "input": {}}, status=502)

    assert (await replicate.get("/v1/trainings"))["results"] == []


async def test_an_answer_can_be_slow(replicate):
    await replicate.post("/_simulator/api-faults", {"delay_seconds": 5, "route": "account.get"})
    slow = asyncio.create_task(replicate.get("/v1/account"))
    quick = asyncio.create_task(replicate.get("/v1/trainings"))

    first, _ = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED)

    assert first == {quick}
    assert (await slow)["username"] == "modelswap"


async def test_faults_are_listed_ordered_and_healed(replicate):
    known = await replicate.get("/_simulator/faults")
    await replicate.post("/_simulator/faults", {"destination": "acme/u-42", "outcome": "failed"})
    await replicate.post("/_simulator/api-faults", {"status": 500, "next": 1000})

    await replicate.ask("DELETE", "/_simulator/faults", status=204)
    training = await replicate.train()

    assert {"duplicate", "reorder", "drop", "api_throttled"} <= set(known)
    (oracle,) = (await replicate.get("/_simulator/trainings"))["trainings"]
    assert (oracle["id"], oracle["status"], oracle["faults"]) == (training["id"], "succeeded", {})


@pytest.mark.parametrize("order", [{"duplicates": 1}, {"duplicate": -1}, {"outcome": "lost"}, {"next": 0}])
async def test_an_order_that_makes_no_sense_is_refused(replicate, order):
    await replicate.post("/_simulator/faults", order, status=422)


async def test_a_fault_for_a_training_that_does_not_run_is_refused(replicate):
    await replicate.post("/_simulator/faults", {"training_id": "nobodys", "duplicate": 1}, status=409)


async def test_the_oracle_knows_the_end_before_it_comes(replicate):
    created = await replicate.train()
    (foretold,) = (await replicate.get("/_simulator/trainings"))["trainings"]
    replicate.pass_time(1000)
    ended = await replicate.get(f"/v1/trainings/{created['id']}")

    assert not foretold["has_ended"]
    assert foretold["ends_at"] == "2026-11-24T10:10:10+00:00"
    assert (foretold["status"], foretold["output"]) == (ended["status"], ended["output"])
    assert foretold["version"] == ended["output"]["version"]


@pytest.mark.parametrize("replicate", [{"retry_delays_real_seconds": (0.0,)}], indirect=True)
async def test_every_attempt_is_listed(replicate):
    created = await replicate.train(webhook="http://127.0.0.1:9/", webhook_events_filter=["completed"])
    await replicate.post(f"/v1/trainings/{created['id']}/cancel", status=200)
    await replicate.simulator.settled()

    first, second = (await replicate.get("/_simulator/deliveries"))["deliveries"]

    assert (first["training_id"], first["event"], first["status"]) == (created["id"], "completed", None)
    assert (second["webhook_id"], first["number"], second["number"]) == (first["webhook_id"], 1, 2)


async def test_it_says_that_it_is_ready(replicate):
    assert (await replicate.get("/readyz"))["status"] == "ok"


async def test_serving_leaves_nothing_behind():
    before = asyncio.all_tasks()
    async with running(Simulator()) as url, plain_client(base_url=url, headers=TOKEN) as http:
        await http.get("/v1/account")

    assert asyncio.all_tasks() <= before
    with pytest.raises(httpx.ConnectError):
        await plain_client().get(url)


async def test_a_port_that_is_taken_is_named():
    async with running(Simulator()) as url:
        other = Simulator()
        with pytest.raises(ModelswapError, match=re.escape(url.removeprefix("http://"))):
            async with running(other, port=int(url.rpartition(":")[2])):
                pass
        await other.close()


async def test_the_process_says_where_it_listens_and_stops_when_told():
    settings = {"MODELSWAP_SIMULATOR_PORT": "0", "MODELSWAP_SIMULATOR_SEED": "7", "MODELSWAP_SIMULATOR_SPEED": "60"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.simulator",
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    said: dict[str, Any] = {}
    async with asyncio.timeout(60):
        while said.get("event") != "simulator.listening":
            said = json.loads(await process.stdout.readline())
        async with plain_client(base_url=said["url"], headers=TOKEN) as http:
            answer = await http.get("/v1/webhooks/default/secret")
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert (said["seed"], said["speed"]) == (7, 60)
    assert answer.json() == {"key": Simulator(seed=7).secret}
    assert process.returncode == 0
