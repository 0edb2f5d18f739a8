"""The official Python client takes the simulator for Replicate: every call about models, trainings and their runs."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.model import Model
from replicate.pagination import async_paginate, paginate
from replicate.training import Training
from replicate.version import Versions
from replicate.webhook import Webhooks

from services.simulator.app import running
from services.simulator.faults import ApiFaultOrder, FaultOrder
from services.simulator.job import NEVER
from services.simulator.requests import JobRequest, TrainingRequest
from services.simulator.simulator import Simulator
from tests.hooks import receiving

TRAINER, TRAINER_VERSION = "ostris/flux-dev-lora-trainer", "e" * 64
OFFICIAL = "black-forest-labs/flux-schnell"
PROMPT = {"prompt": "a lake"}
#: A training and a run take hundredths of a second, but for those that are told to take long.
QUICK: dict[str, Any] = {"speed": 1000, "boot_seconds": 5, "duration_seconds": 20, "auto_destinations": False}
LONG_SECONDS = 1_000_000.0


@dataclass
class Official:
    """The client, asked by its synchronous or its asynchronous methods."""

    simulator: Simulator
    client: Client
    is_async: bool

    async def ask(self, of: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call what is called *name*, or its asynchronous twin."""
        if self.is_async:
            twin = "aread" if name == "read" else f"async_{name}"
            return await getattr(of, twin)(*args, **kwargs)
        return await asyncio.to_thread(getattr(of, name), *args, **kwargs)

    async def create_model(self, name: str = "u-42", **more: Any) -> Model:
        params = {"visibility": "private", "hardware": "gpu-t4", **more}
        model: Model = await self.ask(self.client.models, "create", "acme", name, **params)
        return model

    async def train(self, **more: Any) -> Training:
        training: Training = await self.ask(
            self.client.trainings,
            "create",
            **{"model": TRAINER, "version": TRAINER_VERSION, "input": {}, "destination": "acme/u-42", **more},
        )
        return training

    async def trained(self, **faults: Any) -> Training:
        """A training into a new model, that has succeeded."""
        await self.create_model()
        if faults:
            self.simulator.order(FaultOrder(**faults))
        training = await self.train()
        async with asyncio.timeout(60):
            while training.status not in ("succeeded", "failed", "canceled"):
                await self.ask(training, "reload")
        assert training.status == "succeeded"
        return training

    async def version(self, **faults: Any) -> str:
        """The reference of the version that a training has made."""
        output: Any = (await self.trained(**faults)).output
        reference: str = output["version"]
        return reference

    async def pages(self, list_method: str, of: Any) -> list[Any]:
        if self.is_async:
            return [page async for page in async_paginate(getattr(of, f"async_{list_method}"))]
        return await asyncio.to_thread(lambda: list(paginate(getattr(of, list_method))))

    async def stream(self, reference: str) -> list[Any]:
        if self.is_async:
            return [event async for event in await self.client.async_stream(reference, PROMPT)]
        return await asyncio.to_thread(lambda: list(self.client.stream(reference, input=PROMPT)))

    async def refused(self, of: Any, name: str, *args: Any, **kwargs: Any) -> ReplicateError:
        with pytest.raises(ReplicateError) as refusal:
            await self.ask(of, name, *args, **kwargs)
        return refusal.value


@contextlib.asynccontextmanager
async def connected(simulator: Simulator, token: str, url: str, *, is_async: bool) -> AsyncIterator[Official]:
    """A client with *token*, which has no way of its own to close its connections."""
    # Without the time that certificates take to load.
    transport = httpx.AsyncHTTPTransport(verify=False) if is_async else httpx.HTTPTransport(verify=False)
    client = Client(token, base_url=url, transport=transport)
    client.poll_interval = 0.01
    yield Official(simulator, client, is_async)
    if is_async:
        await client._async_client.aclose()
    else:
        client._client.close()


@pytest.fixture(params=["sync", "async"])
async def official(request: pytest.FixtureRequest) -> AsyncIterator[Official]:
    simulator = Simulator(**QUICK)
    async with (
        running(simulator) as url,
        connected(simulator, "r8_simulator", url, is_async=request.param == "async") as official,
    ):
        yield official


async def test_a_model_is_created_and_got(official):
    created = await official.create_model(description="faces", github_url="https://example.com/faces")
    got = await official.ask(official.client.models, "get", "acme/u-42")
    again = await official.refused(
        official.client.models, "create", "acme", "u-42", visibility="private", hardware="cpu"
    )

    assert got == created
    assert (got.id, got.visibility, got.run_count, got.latest_version) == ("acme/u-42", "private", 0, None)
    assert (got.url, got.description) == ("https://replicate.com/acme/u-42", "faces")
    assert got.github_url == "https://example.com/faces"
    assert (again.status, again.detail) == (409, "A model with that name and owner already exists.")


async def test_a_model_knows_its_latest_version_and_its_runs(official):
    reference = await official.version()
    await official.ask(official.client.predictions, "create", version=reference, input=PROMPT)
    model = await official.ask(official.client.models, "get", "acme", "u-42")

    assert model.latest_version.id == reference.split(":")[1]
    assert model.run_count == 1


async def test_only_public_models_are_listed_and_found(official):
    await official.create_model("hidden-faces")
    await official.create_model("faces", visibility="public")

    listed = await official.ask(official.client.models, "list")
    matching = await official.ask(official.client.models, "search", "FACES")

    assert [model.id for model in listed] == ["acme/faces", OFFICIAL]
    assert [model.id for model in matching] == ["acme/faces"]


async def test_a_model_is_deleted_once_it_has_no_versions(official):
    reference = await official.version()
    versions = Versions(official.client, "acme/u-42")

    refused = await official.refused(official.client.models, "delete", "acme/u-42")
    # Replicate answers 202; this client takes only 204 for a success.
    assert await official.ask(versions, "delete", reference.split(":")[1]) is False
    async with asyncio.timeout(60):
        while (await official.ask(versions, "list")).results:
            pass
    assert await official.ask(official.client.models, "delete", "acme/u-42") is True

    assert refused.status == 403
    assert (await official.refused(official.client.models, "get", "acme/u-42")).status == 404


async def test_a_deleted_version_does_not_run_and_its_runs_are_gone(official):
    reference = await official.version()
    version_id = reference.split(":")[1]
    run = await official.ask(official.client.predictions, "create", version=version_id, input=PROMPT)
    versions = Versions(official.client, "acme/u-42")

    await official.ask(versions, "delete", version_id)
    async with asyncio.timeout(60):
        while (await official.ask(official.client.predictions, "list")).results:
            pass

    assert (await official.refused(versions, "get", version_id)).status == 404
    assert (await official.refused(official.client.predictions, "get", run.id)).status == 404
    refused = await official.refused(official.client.predictions, "create", version=version_id, input=PROMPT)
    assert refused.title == "Invalid version or not permitted"


async def test_a_version_is_listed_and_got(official):
    reference = await official.version()
    model = await official.ask(official.client.models, "get", "acme/u-42")

    listed = await official.ask(model.versions, "list")
    got = await official.ask(model.versions, "get", reference.split(":")[1])

    assert listed.results == [got]
    assert got == model.latest_version
    assert got.openapi_schema["components"]["schemas"]["Input"]["required"] == ["prompt"]


async def test_a_training_is_created_reloaded_and_got(official):
    training = await official.trained()
    got = await official.ask(official.client.trainings, "get", training.id)

    assert got == training
    assert (training.model, training.version) == (TRAINER, TRAINER_VERSION)
    assert training.destination == "acme/u-42"
    assert training.output["version"].startswith("acme/u-42:")
    assert training.urls["cancel"].endswith(f"/v1/trainings/{training.id}/cancel")
    assert training.started_at
    assert training.completed_at
    assert training.error is None


async def test_a_training_is_canceled(official):
    await official.create_model()
    official.simulator.order(FaultOrder(duration_seconds=LONG_SECONDS, next=2))
    one, other = await official.train(), await official.train()

    await official.ask(one, "cancel")
    canceled = await official.ask(official.client.trainings, "cancel", other.id)

    assert (one.status, canceled.status) == ("canceled", "canceled")
    await official.ask(one, "reload")
    assert one.status == "canceled"


async def test_trainings_are_listed_by_pages_forth_and_back(official):
    await official.create_model()
    official.simulator.order(FaultOrder(duration_seconds=LONG_SECONDS, next=205))
    request = TrainingRequest(destination="acme/u-42", input={})
    world, url, now = official.simulator.world, official.client._base_url, official.simulator.now()
    begin = functools.partial(world.create_training, request, trainer=TRAINER, version=TRAINER_VERSION)
    created = [training.id for _ in range(205) if (training := begin(api_url=url, now=now))]

    first, second, third = await official.pages("list", official.client.trainings)
    await official.train()
    back = await official.ask(official.client.trainings, "list", third.previous)
    front = await official.ask(official.client.trainings, "list", back.previous)

    listed = [training.id for page in (first, second, third) for training in page]
    assert listed == created[::-1]
    assert (first.previous, third.next) == (None, None)
    assert [training.id for training in back] == [training.id for training in second]
    assert [training.id for training in front] == [training.id for training in first]
    assert front.next == first.next


async def test_predictions_are_listed_by_pages_forth_and_back(official):
    reference, world, now = await official.version(), official.simulator.world, official.simulator.now()
    version, asked = world.find_version(reference, now=now), JobRequest(input=PROMPT)
    for _ in range(101):
        world.create_prediction(asked, version, deadline_seconds=NEVER, api_url=official.client._base_url, now=now)

    first, second = await official.pages("list", official.client.predictions)
    back = await official.ask(official.client.predictions, "list", second.previous)

    assert [len(first), len(second)] == [100, 1]
    assert [prediction.id for prediction in back] == [prediction.id for prediction in first]


async def test_a_prediction_is_created_and_waited_for(official):
    version = await official.version()

    created = await official.ask(official.client.predictions, "create", version=version, input=PROMPT)
    await official.ask(created, "wait")
    got = await official.ask(official.client.predictions, "get", created.id)

    assert got == created
    assert (created.status, created.input, created.version) == ("succeeded", PROMPT, version.split(":")[1])
    assert created.progress.percentage == 1.0
    assert created.metrics["predict_time"] > 0
    assert len(created.output) == 1


@pytest.mark.parametrize("wait", [True, 5])
async def test_a_prediction_is_created_blocking(official, wait):
    version = await official.version()
    created = await official.ask(official.client.predictions, "create", version=version, input=PROMPT, wait=wait)

    assert created.status == "succeeded"


async def test_a_prediction_is_canceled(official):
    version = await official.version(prediction="never_starts")
    create = (official.client.predictions, "create")
    one = await official.ask(*create, version=version, input=PROMPT)
    other = await official.ask(*create, version=version, input=PROMPT, wait=1)

    await official.ask(one, "cancel")
    canceled = await official.ask(official.client.predictions, "cancel", other.id)

    assert (one.status, other.status, canceled.status) == ("canceled", "starting", "canceled")


async def test_only_an_official_model_runs_by_its_name(official):
    await official.version()
    predictions = official.client.models.predictions

    run = await official.ask(predictions, "create", OFFICIAL, PROMPT, wait=True)
    other = await official.ask(official.client.predictions, "create", model=OFFICIAL, input=PROMPT)
    shown = await official.ask(official.client.models, "get", OFFICIAL)
    refused = await official.refused(predictions, "create", "acme/u-42", PROMPT)

    assert (run.status, run.model, run.version) == ("succeeded", OFFICIAL, "hidden")
    assert (other.model, other.version) == (OFFICIAL, "hidden")
    assert shown.run_count == 2
    assert (refused.status, refused.detail) == (404, "The requested resource could not be found.")
    assert (await official.refused(shown.versions, "list")).status == 404


async def test_a_model_is_run_to_its_output(official):
    reference = await official.version()

    outputs = [
        await official.ask(official.client, "run", reference, PROMPT),
        await official.ask(official.client, "run", reference, PROMPT, wait=False),
        await official.ask(official.client, "run", OFFICIAL, PROMPT),
    ]

    for (address,) in outputs:
        image = await official.ask(FileOutput(address, official.client), "read")
        assert image.startswith(b"\x89PNG")


async def test_a_run_that_fails_says_why(official):
    reference = await official.version(prediction="fails")

    with pytest.raises(ModelError, match="CUDA out of memory") as failure:
        await official.ask(official.client, "run", reference, PROMPT)

    assert failure.value.prediction.status == "failed"


async def test_a_model_that_can_not_stream_says_so(official):
    reference = await official.version()

    with pytest.raises(ReplicateError, match="does not support streaming"):
        await official.stream(reference)


async def test_the_account_its_hardware_and_its_secret(official):
    account = await official.ask(official.client.accounts, "current")
    hardware = await official.ask(official.client.hardware, "list")
    secret = await official.ask(official.client.webhooks.default, "secret")

    assert (account.type, account.username) == ("organization", "modelswap")
    assert "gpu-t4" in {each.sku for each in hardware}
    assert secret.key == official.simulator.secret


async def test_a_webhook_that_is_sent_passes_the_clients_validation(official):
    await official.create_model()
    secret = await official.ask(official.client.webhooks.default, "secret")
    async with receiving() as receiver:
        training = await official.train(webhook=receiver.url, webhook_events_filter=["completed"])
        await receiver.until(lambda: bool(receiver.hooks))

    (hook,) = receiver.hooks
    Webhooks.validate(headers=hook.headers, body=hook.body.decode(), secret=secret, tolerance=300)
    assert hook.training["id"] == training.id
    assert hook.training["status"] == "succeeded"


async def test_a_prediction_posts_the_webhooks_asked_for(official):
    version = await official.version()
    async with receiving() as receiver:
        hooks = {"webhook": receiver.url, "webhook_events_filter": ["start", "output", "completed"]}
        prediction = await official.ask(official.client.predictions, "create", version=version, input=PROMPT, **hooks)
        await receiver.until(lambda: len(receiver.hooks) == 3)

    for hook in receiver.hooks:
        hook.verify(official.simulator.secret)
        assert hook.training["id"] == prediction.id
    # They may overtake each other.
    told = sorted((hook.training["status"], bool(hook.training["output"])) for hook in receiver.hooks)
    assert told == [("processing", False), ("processing", True), ("succeeded", True)]


async def test_what_is_not_there_is_404(official):
    client = official.client
    refusals = [
        await official.refused(client.trainings, "get", "nothing"),
        await official.refused(client.trainings, "cancel", "nothing"),
        await official.refused(client.predictions, "get", "nothing"),
        await official.refused(client.predictions, "cancel", "nothing"),
        await official.refused(client.models, "get", "acme/nothing"),
        await official.refused(client.models, "delete", "acme/nothing"),
        await official.refused(Versions(client, "acme/nothing"), "list"),
        await official.refused(Versions(client, "acme/nothing"), "get", "0" * 64),
        await official.refused(Versions(client, "acme/nothing"), "delete", "0" * 64),
    ]

    assert {(each.status, each.detail) for each in refusals} == {(404, "The requested resource could not be found.")}


async def test_a_training_into_nothing_is_404(official):
    refused = await official.refused(
        official.client.trainings,
        "create",
        model=TRAINER,
        version=TRAINER_VERSION,
        input={},
        destination="acme/nothing",
    )

    assert (refused.status, refused.detail) == (404, "The specified training destination does not exist")


async def test_what_makes_no_sense_is_422(official):
    version = await official.version()
    create = (official.client.predictions, "create")
    unknown = await official.refused(*create, version="0" * 64, input=PROMPT)
    without_prompt = await official.refused(*create, version=version, input={"seed": 1})
    no_model = await official.refused(
        official.client.models, "create", "acme", "No Name", visibility="private", hardware="cpu"
    )

    assert (unknown.status, unknown.title) == (422, "Invalid version or not permitted")
    assert (without_prompt.status, without_prompt.title) == (422, "Input validation failed")
    assert "prompt" in without_prompt.detail
    assert (no_model.status, no_model.title) == (422, "Input validation failed")


async def test_without_its_token_a_client_is_401(official):
    url = official.client._base_url
    async with connected(official.simulator, "r8_other", url, is_async=official.is_async) as stranger:
        refused = await stranger.refused(stranger.client.accounts, "current")

    assert (refused.status, refused.title) == (401, "Unauthenticated")


async def test_the_client_asks_again_when_throttled(official):
    official.simulator.world.orders.add_for_calls(ApiFaultOrder(status=429, retry_after_header="0"))

    account = await official.ask(official.client.accounts, "current")

    assert account.username == "modelswap"
    assert official.simulator.calls["account.get", ""] == 2
