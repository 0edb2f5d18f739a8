"""The screen Now and the search, as a browser without scripts sees them, on a real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from html import escape
from typing import cast

import pytest
from starlette.types import ASGIApp

from services.ops.api import create_api as ops_api
from services.ops.console.app import SCREENS
from services.ops.console.console import Console
from services.ops.console.views.formats import NOTHING
from services.ops.letters.views import Filter
from services.ops.migrate import ROLE
from services.ops.processes.api import processes_router
from services.ops.processes.views import Processes, Queues, Source
from services.ops.reconcile.api import reconciliation_router
from services.ops.reconcile.store import Store as Recoveries
from services.state.api import WebhookAddress
from services.state.api import create_api as state_api
from services.state.store import Store
from services.state.streams import Watcher
from shared.contract.topology import topology
from shared.runtime.clock import now
from shared.runtime.health import reporter
from shared.runtime.http import create_app, new_api
from shared.runtime.tokens import read_token
from tests.console import HOSTILE, TOKENS, signed_in
from tests.databases import opened_pool
from tests.integration.test_reconcile import State
from tests.integration.test_state_api import Replicate
from tests.ops import READER, Letters, archived, dead, routers_of
from tests.state import opened_store, ready, registration, started, succeeded


class Running:
    """All that runs is well."""

    async def processes(self) -> Processes:
        return Processes(at=now(), version="1", processes=[])

    async def queues(self) -> Queues:
        return Queues(at=now(), source=Source.AMQP, trouble="", queues=[])


@dataclass
class Product:
    """The APIs behind the console, and their stores."""

    state: Store
    letters: Letters
    ops_api: ASGIApp
    state_api: ASGIApp

    async def page(self, path: str = "/", *, others: bool = True, token: str | None = None) -> str:
        options = {} if token is None else {"token": token}
        async with signed_in(self.ops_api, self.state_api if others else None, **options) as browser:
            answer = await browser.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
async def product(database_url: str) -> AsyncIterator[Product]:
    async with contextlib.AsyncExitStack() as opened:
        state = await opened.enter_async_context(opened_store(database_url))
        pool = await opened.enter_async_context(opened_pool(database_url, role=ROLE))
        letters = Letters(pool)
        ops = ops_api(
            *routers_of(letters),
            reconciliation_router(Recoveries(pool), State(), calls_per_minute=60),
            processes_router(Running()),
            tokens=TOKENS,
        )
        api = state_api(
            state,
            Replicate(),
            Watcher(state, asyncio.Event(), limit=1),
            webhook=WebhookAddress("https://hooks.example.com", ("a secret that signs our addresses",)),
            api_tokens=("service/ops:token-of-ops",),
        )
        yield Product(state, letters, ops, create_app(api, reporter({})))


async def test_with_an_empty_database_all_is_well(product):
    page = await product.page()

    assert "All is well. No training is on the way, and nothing waits for you." in page
    assert "No swap in the last 24 hours." in page


async def test_what_is_on_the_way_and_what_was_swapped_is_shown(product):
    await product.state.adopt(registration("ada", "t1"))
    assert await product.state.apply([succeeded("t1"), ready("t1")]) == [None, None]
    await product.state.adopt(registration(HOSTILE[:-1], "t2"))
    assert await product.state.apply([started("t2")]) == [None]
    await product.state.adopt(registration("eve", "t3"))

    page = await product.page(token=READER)

    assert "All is well. 2 trainings on the way, 1 swap in the last 24 hours, and nothing waits for you." in page
    assert '<a class="mono" href="/trainings/t2">t2</a>' in page
    assert f'<td data-label="Progress" class="progress">{NOTHING}</td>' in page
    assert 'aria-label="Swaps per hour: 1 in 24 hours, at most 1 in one."' in page
    assert HOSTILE not in page
    assert escape(HOSTILE[:-1], quote=False)[:30] in page


async def test_open_dead_letters_stand_on_top_with_their_error(product):
    await archived(product.letters, *(dead(f"t{n}", topology(), text=HOSTILE) for n in range(3)), now=now())

    page = await product.page()

    assert "Something needs you." in page or "Nothing is urgent, but look at this." in page
    assert "3 open dead letters" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{7*7}}" in page
    assert "\u202e" not in page
    assert "\\u202e" in page


async def test_while_state_is_away_the_rest_is_shown(product):
    await archived(product.letters, dead("t1", topology()), now=now())

    page = await product.page(others=False)

    assert "services.state cannot answer" in page
    assert "1 open dead letter" in page
    assert "All is well" not in page


async def test_while_state_is_of_an_older_version_the_rest_is_shown(product):
    older = new_api(title="state", summary="", tags={}, tokens=[read_token("service/ops:token-of-ops")], statuses={})

    page = await replace(product, state_api=create_app(older, reporter({}))).page()

    assert "services.state cannot answer" in page
    assert "it is of an older version than ops" in page


async def test_a_search_leads_to_what_alone_was_found(product):
    await product.state.adopt(registration("ada", "t1"))
    await archived(product.letters, dead("t1", topology()), now=now())
    letter = (await product.letters.list_letters(Filter(), limit=1))[0].number
    async with signed_in(product.ops_api, product.state_api) as browser:
        found = [await browser.get(f"/search?q={text}") for text in ("t1", "ada", str(letter), f"%23{letter}")]

    assert [(answer.status_code, answer.headers["location"]) for answer in found] == [
        (303, "/trainings/t1"),
        (303, "/users/ada"),
        (303, f"/dead-letters/{letter}"),
        (303, f"/dead-letters/{letter}"),
    ]


async def test_while_state_is_away_a_search_finds_dead_letters(product):
    await archived(product.letters, dead("t1", topology()), now=now())
    letter = (await product.letters.list_letters(Filter(), limit=1))[0].number
    async with signed_in(product.ops_api, None) as browser:
        found, nothing = await browser.get(f"/search?q={letter}"), await browser.get("/search?q=t1")

    assert (found.status_code, nothing.status_code) == (200, 200)
    assert f'<a href="/dead-letters/{letter}">dead letter {letter}</a>' in found.text
    assert "Trainings, users and models cannot be shown now." in nothing.text
    assert "Nothing is called that." not in nothing.text


@pytest.mark.parametrize("text", ["", "nothing", "%00", "%E2%80%AE", "999999999999999999", "x" * 400, "<script>"])
async def test_a_search_for_anything_has_a_page(product, text):
    page = await product.page(f"/search?q={text}")

    assert "Type the id" in page if not text else "Nothing is called that." in page
    assert "<script>" not in page


_WORDS = ("", "%00", "%FF", "%F0%9F%92%A9", "-1", "0", "9" * 40, "%3Cscript%3E", "%E2%80%AE", "a%2F..%2Fb", "x" * 900)
_NAMES = ("q", "status", "stage", "user_id", "cursor", "since", "until", "fingerprint", "text", "next", "code", "tab")


async def test_no_address_is_a_fault_whatever_is_typed(product):
    paths = {route.path for screen in SCREENS for route in screen(cast("Console", None))} - {"/sign-out"}
    asked = [re.sub(r"{[^}]+}", word or "x", path) for path in paths for word in _WORDS]
    asked += [f"{path}?{'&'.join(f'{name}={word}' for name in _NAMES)}" for path in paths for word in _WORDS]
    async with signed_in(product.ops_api, product.state_api) as browser:
        answers = [await browser.get(path) for path in asked]
        posted = [await browser.post(path, reason="<script>", key="") for path in sorted(paths)]

    assert len(paths) > 5
    assert [str(answer.url) for answer in (*answers, *posted) if answer.status_code >= 500] == []
    assert [str(answer.url) for answer in (*answers, *posted) if "<script>" in answer.text] == []
