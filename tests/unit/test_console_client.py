"""What the console asks: requests within the process, rights, names, streams, and APIs that are away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from services.ops.api import create_api
from services.ops.console.client import Away, Clients, Refused, ServiceDown, attempt
from services.ops.console.session import begin
from shared.runtime.http import Api as HttpApi
from shared.runtime.http import Asker
from shared.runtime.tokens import read_token
from tests.console import TOKENS, no_audit, refuse_all

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
OLGA, RITA = TOKENS
SERVICE = read_token("service/ops:token-of-ops")


class Said(BaseModel):
    name: str


def an_api(left: asyncio.Event | None = None) -> HttpApi:
    router = APIRouter()

    @router.get("/who")
    async def who(asker: Asker) -> Said:
        return Said(name=asker.name)

    @router.post("/who")
    async def do(asker: Asker) -> Said:
        return Said(name=asker.name)

    @router.get("/broken")
    async def broken() -> Said:
        raise RuntimeError("a bug")

    @router.get("/events")
    async def events() -> StreamingResponse:
        async def endless() -> AsyncIterator[str]:
            try:
                yield ":\n\nretry: 2000\n\n"
                number = 0
                while True:
                    number += 1
                    yield f"id: {number}\nevent: tick\ndata: {number}\n\n"
                    await asyncio.sleep(0)
            finally:
                if left is not None:
                    left.set()

        return StreamingResponse(endless(), media_type="text/event-stream")

    return create_api(router, tokens=TOKENS)


@contextlib.asynccontextmanager
async def apis(token=OLGA, *, name=None, left=None):
    async with Clients(
        an_api(left),
        state_url="http://state",
        notifier_url="http://notifier",
        token=SERVICE,
        audit=no_audit,
        transport=refuse_all(),
    ) as clients:
        yield clients.of(begin(token, name=name, nonce="n", now=NOON))


async def test_ops_knows_who_asks_by_the_token():
    async with apis(OLGA) as asked:
        assert (await asked.ops.get(Said, "/who")).name == "olga"


async def test_a_name_from_the_proxy_is_the_name_in_the_audit():
    async with apis(OLGA, name="grace@example.com") as asked:
        assert (await asked.ops.post(Said, "/who")).name == "grace@example.com"


async def test_a_readers_write_is_refused_before_any_api_is_asked():
    async with apis(RITA) as asked:
        for api in (asked.ops, asked.state, asked.notifier):
            with pytest.raises(Refused, match="change nothing") as refused:
                await api.post(Said, "/who")
            assert refused.value.status == 403


async def test_what_is_not_there_is_refused_with_its_problem():
    async with apis() as asked:
        with pytest.raises(Refused) as refused:
            await asked.ops.get(Said, "/nowhere")

    assert (refused.value.status, refused.value.kind) == (404, "not-found")


async def test_an_api_that_fails_or_is_away_is_down():
    async with apis() as asked:
        with capture_logs(), pytest.raises(ServiceDown, match="500"):
            await asked.ops.get(Said, "/broken")
        assert isinstance(await attempt(asked.state.get(Said, "/who")), Away)


async def test_an_endless_stream_is_read_as_it_comes_and_left():
    left = asyncio.Event()
    async with apis(left=left) as asked, contextlib.aclosing(asked.ops.follow("/events")) as stream:
        seen = [await anext(stream) for _ in range(3)]

    assert [(event.id, event.name, event.data) for event in seen] == [(str(n), "tick", str(n)) for n in (1, 2, 3)]
    await asyncio.wait_for(left.wait(), 5)
