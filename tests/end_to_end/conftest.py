"""A webhook walks to a commit: every process of the product, real servers, and a Replicate to order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.simulator.app import running
from services.simulator.simulator import Simulator
from shared.contract.topology import topology
from shared.runtime.lifecycle import serve
from shared.runtime.settings import StateSettings
from tests.broker import Broker
from tests.stack import WEBHOOK_SECRET, Stack, free_port

#: Opens a stack beside a simulator; keywords are the simulator's knobs.
OpenStack = Callable[..., contextlib.AbstractAsyncContextManager[tuple[Stack, Simulator]]]


@pytest.fixture
def open_stack(amqp_url: str, database_url: str, tmp_path: Path) -> OpenStack:
    @contextlib.asynccontextmanager
    async def open_stack(
        *,
        amqp_url: str = amqp_url,
        database_url: str = database_url,
        settings: dict[str, str] | None = None,
        **knobs: Any,
    ) -> AsyncIterator[tuple[Stack, Simulator]]:
        simulator = Simulator(**{"speed": 200.0, "secret": WEBHOOK_SECRET, **knobs})
        async with running(simulator) as replicate_url:
            stack = Stack(
                tmp_path,
                amqp_url=amqp_url,
                database_url=database_url,
                replicate_url=replicate_url,
                **(settings or {}),
            )
            delays = StateSettings.load(stack.environment).retry_delays
            async with Broker(amqp_url, topology(delays)), stack:
                yield stack, simulator

    return open_stack


@pytest.fixture
async def everything_exists() -> AsyncIterator[str]:
    """A Replicate to which every version is known."""

    async def version(request: Request) -> Response:
        return JSONResponse({"id": request.path_params["version"], "created_at": "2026-11-24T00:00:00Z"})

    app = Starlette(routes=[Route("/v1/models/{owner}/{name}/versions/{version}", version)])
    stopping = asyncio.Event()
    port = free_port()
    serving = asyncio.create_task(serve(app, host="127.0.0.1", port=port, stopping=stopping))
    yield f"http://127.0.0.1:{port}"
    stopping.set()
    await serving
