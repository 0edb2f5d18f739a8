"""One-time links on a real Postgres: single use, expiry, two replicas, and that no log has a code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.ops.api import create_api
from services.ops.migrate import ROLE
from services.ops.sign_in.api import sign_in_router
from services.ops.sign_in.store import SignInCodes
from shared.runtime.http import Api
from shared.runtime.lifecycle import serve
from shared.runtime.ports import free_ports
from shared.runtime.postgres import connect_pool
from shared.runtime.settings_base import Settings
from shared.runtime.tokens import Token, read_token
from tests.console import TOKENS, Browser, opened_console
from tests.databases import opened_pool
from tests.described import DescribedTransport
from tests.ops import OPERATOR, READER
from tests.stack import plain_client
from tests.state import connected

SERVICE = "token-of-a-service"
WITH_A_SERVICE = (*TOKENS, read_token(f"service/state:{SERVICE}"))


class Replica:
    """One replica of ops: its API, and its console."""

    def __init__(self, browser: Browser, api: Api) -> None:
        self.browser = browser
        self._api = api

    async def make_code(self, token: str = OPERATOR) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(
            transport=DescribedTransport(self._api), base_url="http://ops/v1", headers=headers
        ) as http:
            return await http.post("/sign-in-codes")

    async def redeem(self, code: str) -> httpx.Response:
        return await self.browser.http.post("/sign-in", data={"code": code})


@contextlib.asynccontextmanager
async def replica(
    database_url: str, *, tokens: Sequence[Token] = WITH_A_SERVICE, **options: Any
) -> AsyncIterator[Replica]:
    async with opened_pool(database_url, role=ROLE) as pool:
        codes = SignInCodes(pool, tokens, **options)
        api = create_api(sign_in_router(codes), tokens=tokens)
        async with opened_console(api, tokens=tokens, redeem=codes.redeem) as browser:
            yield Replica(browser, api)


async def test_a_link_signs_in_once(database_url):
    async with replica(database_url) as ops:
        made = await ops.make_code()
        code = made.json()["code"]
        page = await ops.browser.get(f"/sign-in?code={code}")
        first = await ops.redeem(code)
        shown = await ops.browser.get("/")
        second = await ops.redeem(code)

    assert made.status_code == 201
    assert (page.status_code, f'name="code" value="{code}"' in page.text) == (200, True)
    assert page.headers["cache-control"] == "no-store"
    assert (first.status_code, first.headers["location"], "olga" in shown.text) == (303, "/", True)
    assert second.status_code == 401
    assert "used already" in second.text


async def test_a_preview_of_the_link_does_not_use_it_up(database_url):
    async with replica(database_url) as ops:
        code = (await ops.make_code()).json()["code"]
        for _ in range(3):
            await ops.browser.get(f"/sign-in?code={code}")
        answer = await ops.redeem(code)

    assert answer.status_code == 303


async def test_a_link_expires(database_url):
    async with replica(database_url, lasts=timedelta(seconds=-1)) as ops:
        answer = await ops.redeem((await ops.make_code()).json()["code"])
        await ops.make_code()

    assert answer.status_code == 401
    async with connected(database_url) as connection:
        # The next code deletes expired ones.
        assert await connection.fetchval("SELECT count(*) FROM ops.sign_in_codes") == 1


async def test_of_two_replicas_one_redeems_a_link(database_url):
    async with replica(database_url) as one, replica(database_url) as other:
        code = (await one.make_code()).json()["code"]
        answers = await asyncio.gather(*(each.redeem(code) for each in (one, other) * 4))

    assert sorted(answer.status_code for answer in answers)[:2] == [303, 401]


async def test_a_readers_link_begins_a_readers_session(database_url):
    async with replica(database_url) as ops:
        made = await ops.make_code(READER)
        await ops.redeem(made.json()["code"])
        page = await ops.browser.get("/")
        written = await ops.browser.post("/anything")

    assert made.status_code == 201
    assert "rita" in page.text
    assert written.status_code == 403


async def test_a_service_gets_no_link(database_url):
    async with replica(database_url) as ops:
        answer = await ops.make_code(SERVICE)

    assert (answer.status_code, answer.json()["type"]) == (403, "urn:modelswap:problem:not-a-persons")


async def test_a_rotated_token_ends_its_links(database_url):
    async with (
        replica(database_url) as before,
        replica(database_url, tokens=[read_token("new-token-of-olga")]) as after,
    ):
        code = (await before.make_code()).json()["code"]
        answer = await after.redeem(code)

    assert answer.status_code == 401


@pytest.mark.parametrize("code", ["", "x", "x" * 5000, '"><script>alert(1)</script>', "\x00", "ü"])
async def test_a_forged_link_signs_nobody_in(database_url, code):
    async with replica(database_url) as ops:
        page = await ops.browser.http.get("/sign-in", params={"code": code})
        answer = await ops.redeem(code)

    assert (page.status_code, "<script>alert" in page.text) == (200, False)
    assert answer.status_code == 401


async def test_guesses_of_links_are_slowed(database_url):
    async with replica(database_url) as ops:
        answers = await asyncio.gather(*(ops.redeem(f"guess-{number}") for number in range(20)))

    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) < 10


async def test_no_log_has_a_code_or_a_token(database_url, capfd):
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=4)
    codes = SignInCodes(pool, TOKENS)
    api = create_api(sign_in_router(codes), tokens=TOKENS)
    stopping = asyncio.Event()
    async with opened_console(api, redeem=codes.redeem) as browser:
        with free_ports(1) as (port,):
            serving = asyncio.create_task(serve(browser.app, Settings(), port=port, stopping=stopping))
            await asyncio.sleep(0)  # now it listens
            async with plain_client(base_url=f"http://127.0.0.1:{port}") as http:
                made = await http.post("/v1/sign-in-codes", headers={"Authorization": f"Bearer {OPERATOR}"})
                code = made.json()["code"]
                await http.get(f"/sign-in?code={code}")
                answers = [await http.post("/sign-in", data={"code": code}) for _ in range(2)]
            stopping.set()
            await serving
    pool.terminate()

    written = "".join(capfd.readouterr())
    assert [answer.status_code for answer in answers] == [303, 401]
    assert "console.code_made" in written
    assert code not in written
    assert OPERATOR not in written
