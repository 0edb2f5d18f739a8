"""A slash too many or too few is answered 404, never with a redirect to the host that the client names."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette

from services.receiver.app import WebhookEndpoint
from services.receiver.app import create_app as create_receiver
from services.simulator.app import create_app as create_simulator
from services.simulator.simulator import Simulator
from shared.contract.topology import topology
from shared.runtime.health import health_routes, reporter
from shared.runtime.http import create_app, new_api
from shared.runtime.tokens import read_token


def receiver() -> Starlette:
    unused = cast("Any", None)
    endpoint = WebhookEndpoint(unused, unused, topology(), ref_secrets=(), tolerance_seconds=1, max_body_bytes=1)
    return create_receiver(endpoint, routes=health_routes(reporter({})))


def api() -> Starlette:
    a_token = read_token("t")
    return create_app(new_api(tags={}, title="an API", summary="Test.", tokens=(a_token,), statuses={}), reporter({}))


def simulator() -> Starlette:
    return create_simulator(Simulator())


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (receiver, "/livez/"),
        (receiver, "/webhooks/replicate/"),
        (api, "/livez/"),
        (api, "/v1"),
        (api, "/v1/openapi.json/"),
        (simulator, "/livez/"),
        (simulator, "/v1/trainings/"),
        (simulator, "/_simulator"),
        (simulator, "/_simulator/faults/"),
    ],
)
async def test_a_slash_too_many_or_too_few_is_not_found(make, path):
    transport = httpx.ASGITransport(make(), raise_app_exceptions=False)
    headers = {"Host": "evil.example", "Authorization": "Bearer t"}
    async with httpx.AsyncClient(transport=transport, base_url="http://evil.example", headers=headers) as client:
        answer = await client.post(path) if "webhooks" in path else await client.get(path)

    assert (answer.status_code, answer.headers.get("location")) == (404, None)
