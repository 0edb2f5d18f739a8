"""Is what the APIs say of themselves true? Schemathesis asks the real applications all that they allow and forbid."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from services.extractor.api import create_api as extractor_api
from services.notifier.api import create_api as notifier_api
from services.notifier.migrate import ROLE as NOTIFIER_ROLE
from services.notifier.signing import Signer
from services.notifier.store import Store as Webhooks
from services.ops.api import create_api as ops_api
from services.ops.audit.api import audit_router
from services.ops.audit.store import AuditStore
from services.ops.endpoints.api import endpoints_router
from services.ops.letters.api import create_router as letter_routes
from services.ops.letters.store import Store as Letters
from services.ops.migrate import ROLE as OPS_ROLE
from services.ops.processes.api import processes_router
from services.ops.processes.client import Running
from services.ops.reconcile.api import reconciliation_router
from services.ops.reconcile.store import Store as Recoveries
from services.ops.reconcile.trainings import StateRefused
from services.ops.replays.store import Store as Replays
from services.ops.sign_in.api import sign_in_router
from services.ops.sign_in.store import SignInCodes
from services.ops.subscriptions.api import subscription_router
from services.ops.subscriptions.views import (
    NoSubscription,
    PasswordRotated,
    Planned,
    Subscribe,
    SubscriptionAdded,
    SubscriptionView,
)
from services.state.api import WebhookAddress
from services.state.api import create_api as state_api
from services.state.streams import Watcher
from shared.contract.envelope import Envelope
from shared.contract.errors import PermanentError
from shared.contract.events import Event
from shared.contract.topology import topology
from shared.replicate.training import Training
from shared.runtime.client import HttpClient
from shared.runtime.clock import now
from shared.runtime.health import reporter
from shared.runtime.http import Api, create_app
from shared.runtime.lifecycle import serve
from shared.runtime.settings_base import Settings
from shared.runtime.tokens import read_token
from tests.apis import all_apis
from tests.databases import opened_pool
from tests.fuzzer import schemathesis
from tests.replays import archive_many
from tests.replays import routes as replay_routes
from tests.stack import free_port
from tests.state import failed, opened_store, ready, registration, started

TOKEN: Final = "token-of-whoever-asks"
#: Cases for each operation, beside those that are made of each limit of the schemas.
CASES: Final = 4


class Replicate:
    """Knows, starts and cancels whatever it is asked about."""

    def __init__(self) -> None:
        self._started = 0

    async def create_training(self, *_: Any, **__: Any) -> Any:
        self._started += 1
        return Training.model_validate({"id": f"started{self._started}", "status": "starting"})

    async def get_training(self, training_id: str) -> Any:
        return Training.model_validate({"id": training_id, "status": "processing"})

    async def cancel_training(self, training_id: str) -> Any:
        return Training.model_validate({"id": training_id, "status": "canceled"})


class State:
    """Knows no training that could be looked at again."""

    async def retry_extraction(self, training: str) -> None:
        raise StateRefused(f"training {training} is not registered")


class Subscriptions:
    """As on a broker, without a broker."""

    def __init__(self) -> None:
        self._there: dict[str, SubscriptionView] = {}

    async def list_all(self) -> list[SubscriptionView]:
        return list(self._there.values())

    async def get(self, name: str) -> SubscriptionView:
        if name not in self._there:
            raise NoSubscription(f"there is no subscription {name}")
        return self._there[name]

    async def plan(self, name: str, wanted: Subscribe) -> Planned:
        return Planned(is_new=name not in self._there, max_length=wanted.max_length or 1)

    async def put(self, name: str, wanted: Subscribe) -> SubscriptionAdded:
        counts = {"waiting": 0, "consumers": 0, "overflowed": 0, "overflow_max_length": 1}
        names = {"name": name, "queue": name, "user": name, "overflow_queue": name}
        self._there[name] = SubscriptionView(**names, **counts, events=wanted.events, max_length=wanted.max_length or 1)
        return SubscriptionAdded(**self._there[name].model_dump())

    async def rotate_password(self, name: str) -> PasswordRotated:
        return PasswordRotated(name=(await self.get(name)).name, amqp_url="amqp://broker")

    async def remove(self, name: str) -> SubscriptionView:
        await self.get(name)
        return self._there.pop(name)


def notifier(request: httpx.Request) -> httpx.Response:
    """A notifier that knows every endpoint, but not every delivery."""
    endpoint, _, verb = request.url.path.removeprefix("/v1/webhook-endpoints").strip("/").partition("/")
    is_refused = verb == "test" or verb.startswith("deliveries/")
    delivery = UUID(verb.split("/")[1]) if verb.startswith("deliveries/") else None
    if is_refused and (delivery or UUID(endpoint)).int % 2:
        return httpx.Response(404, json={"detail": f"there is no {verb} of {endpoint}"})
    sent = json.loads(request.content or "{}")
    event = {"id": str(delivery or uuid4()), "event": "webhook.test.v1", "event_id": "e1"}
    test = {"number": 1, "endpoint_id": endpoint, "attempts": 0, "created_at": now().isoformat()}
    return httpx.Response(
        200,
        json={
            **dict.fromkeys(("response_status", "response", "took_ms")),
            **(event if is_refused else {"id": endpoint or str(uuid4()), "secret": "whsec_"}),
            **(test if verb == "test" else {}),
            "url": f"https://example.com/{endpoint}",
            "status": sent.get("status", "enabled"),
            "status_at": now().isoformat(),
            "deliveries": len(sent),
        },
    )


class Handler:
    """Understands no message."""

    async def handle(self, envelope: Envelope) -> list[Event]:
        raise PermanentError(f"nothing follows from {envelope.event.key}")


@contextlib.asynccontextmanager
async def product_api(database_url: str) -> AsyncIterator[Api]:
    async with opened_store(database_url) as store:
        for training_id in ("t1", "t2", "t3", "t4"):
            await store.adopt(registration("ada", training_id))
        await store.apply([ready("t1"), ready("t2"), failed("t3"), started("t4")])
        # Streams end after their first line.
        stopping = asyncio.Event()
        stopping.set()
        watcher = Watcher(store, stopping, limit=10)
        webhook = WebhookAddress("https://hooks.example.com", ("a secret that signs our addresses",))
        yield state_api(store, Replicate(), watcher, webhook=webhook, api_tokens=(TOKEN,))


@contextlib.asynccontextmanager
async def operators_api(database_url: str) -> AsyncIterator[Api]:
    await archive_many(database_url, 3)
    async with (
        opened_pool(database_url, role=OPS_ROLE) as pool,
        HttpClient("http://notifier/v1", transport=httpx.MockTransport(notifier)) as http,
    ):
        replays = Replays(pool)
        token = read_token(TOKEN)
        routers = (
            letter_routes(Letters(pool, failed=replays.failed)),
            audit_router(AuditStore(pool)),
            replay_routes(replays),
            reconciliation_router(Recoveries(pool), State(), calls_per_minute=60),
            subscription_router(Subscriptions(), AuditStore(pool).audit),
            endpoints_router(http, AuditStore(pool).audit),
            processes_router(_alone()),
            sign_in_router(SignInCodes(pool, [token])),
        )
        yield ops_api(*routers, tokens=[token])


def _alone() -> Running:
    """Ops without the other processes and RabbitMQ."""
    report = reporter({})
    nowhere = "amqp://127.0.0.1:1/"
    return Running({}, report, version="1", amqp_url=nowhere, management=None, topology=topology())


@contextlib.asynccontextmanager
async def webhooks_api(database_url: str) -> AsyncIterator[Api]:
    async with opened_pool(database_url, role=NOTIFIER_ROLE) as pool:
        signer = Signer(["a-master-secret"])
        yield notifier_api(Webhooks(pool, at_once=1), signer, allowed=(), tokens=[read_token(TOKEN)])


@contextlib.asynccontextmanager
async def extractors_api() -> AsyncIterator[Api]:
    yield extractor_api(Handler(), api_tokens=(TOKEN,))


@contextlib.asynccontextmanager
async def served(api: Api, below: str) -> AsyncIterator[str]:
    """The address of the *api*, which is served as in its own process."""
    port, stopping = free_port(), asyncio.Event()
    serving = asyncio.create_task(
        serve(create_app(api, reporter({}), below=below), Settings(), port=port, stopping=stopping)
    )
    try:
        async with asyncio.timeout(60):
            while not await is_open(port):
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}{below}"
    finally:
        stopping.set()
        await serving


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def found(service: str, api: Api, url: str, directory: Path) -> str:
    """What schemathesis says of one API; empty if it finds nothing."""
    document = directory / f"{service}.json"
    # With the tools, which the served description leaves out.
    document.write_text(json.dumps(api.whole()))
    token = f"Authorization: Bearer {TOKEN}"
    code, said = await schemathesis(document, url, "--header", token, "--checks", "all", most_examples=CASES)
    return said if code else ""


async def test_the_apis_do_what_their_descriptions_say(database_url, tmp_path):
    opening: dict[str, AbstractAsyncContextManager[Api]] = {
        "state": product_api(database_url),
        "ops": operators_api(database_url),
        "extractor": extractors_api(),
        "notifier": webhooks_api(database_url),
    }
    async with AsyncExitStack() as stack:
        # One after the other: to build one takes long on a busy machine, and meanwhile no transaction may be open.
        apis = {service: await stack.enter_async_context(opened) for service, opened in opening.items()}
        urls = {
            service: await stack.enter_async_context(served(api, "" if service == "extractor" else "/v1"))
            for service, api in apis.items()
        }

        # At the same time: each waits most of the time for its answers.
        said = await asyncio.gather(*(found(service, api, urls[service], tmp_path) for service, api in apis.items()))

    assert not any(said), "\n".join(said)


@pytest.mark.parametrize("service", all_apis())
def test_a_description_is_valid_openapi(service):
    document = json.loads(json.dumps(all_apis()[service].openapi()))

    errors = [f"{list(each.instance_path)}: {each.message}" for each in OPENAPI_31_VALIDATOR.iter_errors(document)]

    assert errors == []
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
