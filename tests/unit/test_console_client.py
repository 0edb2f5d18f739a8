"""What the console asks: requests within the process, rights, names, and APIs that are away."""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from structlog.testing import capture_logs

from services.ops.api import create_api
from services.ops.console.client import Parts, Refused, ServiceDown
from services.ops.console.session import begin
from shared.runtime.http import Api as HttpApi
from shared.runtime.http import Asker, Router
from shared.runtime.tokens import ON_BEHALF_OF, read_token
from tests.console import TOKENS, no_audit, opened_clients, signed_in

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
OLGA, RITA = TOKENS
SERVICE = read_token("service/ops:token-of-ops")


class Said(BaseModel):
    name: str


def an_api() -> HttpApi:
    router = Router()

    @router.get("/who")
    async def who(asker: Asker) -> Said:
        return Said(name=asker.name)

    @router.post("/who")
    async def do(asker: Asker) -> Said:
        return Said(name=asker.name)

    @router.get("/broken")
    async def broken() -> Said:
        raise RuntimeError("a bug")

    return create_api(router, tokens=TOKENS)


@contextlib.asynccontextmanager
async def apis(token=OLGA, *, name=None):
    async with opened_clients(an_api(), None, audit=no_audit, token=SERVICE) as clients:
        session = begin(token, nonce="n", now=NOON)
        yield clients.of(session if name is None else replace(session, name=name))


async def test_ops_knows_who_asks_by_the_token():
    async with apis(OLGA) as asked:
        assert (await asked.ops.get(Said, "/who")).name == "olga"


async def test_a_name_from_the_proxy_is_the_name_in_the_audit():
    async with apis(OLGA, name="grace@example.com") as asked:
        assert (await asked.ops.post(Said, "/who")).name == "grace@example.com"


@pytest.mark.parametrize(
    ("service", "typed", "said"),
    [
        ("service/ops:token-of-ops", "too dark", "too dark"),
        ("token-of-ops", "too dark", "too dark (by olga)"),
        ("token-of-ops", " ", ""),
    ],
)
async def test_a_rollback_names_the_person_by_header_or_reason(service, typed, said):
    state, heard = FastAPI(), []

    @state.post("/v1/users/ada/model/rollback")
    async def roll_back(request: Request) -> Response:
        heard.append(((await request.json())["reason"], request.headers.get(ON_BEHALF_OF)))
        return Response(status_code=503)

    async with signed_in(an_api(), state, service=service) as browser:
        await browser.post("/users/ada/rollback", page="/search", reason=typed)

    assert heard[0] == (said, "olga" if service.startswith("service/") else None)


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
        parts = Parts()
        assert await parts.of("state", asked.state.get(Said, "/who")) is None
        assert "does not answer" in parts.away["state"]


async def test_a_part_that_an_older_api_does_not_know_is_away():
    async with apis() as asked:
        for unknown in (asked.ops.get(Said, "/of-the-next-release"), asked.ops.post(Said, "/broken")):
            parts = Parts()
            assert await parts.of("ops", unknown) is None
            assert "older version" in parts.away["ops"]


async def test_a_part_that_is_refused_is_no_older_version():
    async with apis(RITA) as asked:
        with pytest.raises(Refused, match="change nothing"):
            await Parts().of("ops", asked.ops.post(Said, "/who"))
