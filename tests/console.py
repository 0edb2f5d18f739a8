"""The console as a browser sees it: signed in, over ASGI or over HTTP."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from html import unescape
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

from services.ops.audit.views import Audit
from services.ops.console.app import create_console
from services.ops.console.client import Clients, in_process
from services.ops.console.console import Access, Console
from shared.runtime.client import HttpClient
from shared.runtime.clock import now
from shared.runtime.connections import PRIVATE_NETWORKS
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.tokens import Token, read_token
from tests.ops import OPERATOR, READER

TOKENS = (read_token(f"operator/olga:{OPERATOR}"), read_token(f"reader/rita:{READER}"))
ADDRESS = "http://console.example"
#: What a user could write; it is shown as it is.
HOSTILE = """<script>alert(1)</script>{{7*7}}'"&\u202e"""


async def no_audit(*_: str, key: str | None = None, refused: str | None = None) -> None:
    """Audit nothing."""


async def no_codes(_: str) -> None:
    """Know no code of a one-time link."""


class Browser:
    """Reads pages and sends their forms, as a browser without scripts does."""

    def __init__(self, http: httpx.AsyncClient, app: Starlette) -> None:
        self.http = http
        self.app = app

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    async def sign_in(self, token: str = OPERATOR) -> httpx.Response:
        return await self.http.post("/sign-in", data={"token": token})

    async def post(
        self, path: str, *, page: str = "/search", headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Any:
        """Send a form with the CSRF token that *page* has."""
        token = csrf_in((await self.http.get(page)).text)
        return await self.http.post(path, data={"csrf": token, **fields}, headers=headers)


def csrf_in(page: str) -> str:
    """The CSRF token in a page's forms."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return unescape(found[1])


@contextlib.asynccontextmanager
async def opened_clients(ops: ASGIApp, others: ASGIApp | None, *, audit: Audit, token: Token) -> AsyncIterator[Clients]:
    """The console's clients, for *ops* in this process and *others* that know its *token*."""
    transport = refuse_all() if others is None else httpx.ASGITransport(others)
    async with (
        in_process(ops) as own,
        HttpClient("http://state/v1", token=token.secret, transport=transport) as state,
        HttpClient("http://notifier/v1", token=token.secret, transport=transport) as notifier,
    ):
        yield Clients(own, state, notifier, audit, may_speak_for_others=token.caller.may_speak_for_others)


@contextlib.asynccontextmanager
async def opened_console(
    ops: ASGIApp,
    others: ASGIApp | None = None,
    *,
    clock: Any = now,
    tokens: Sequence[Any] = TOKENS,
    name_header: str | None = None,
    redeem: Any = no_codes,
    audit: Audit = no_audit,
    client: tuple[str, int] = ("203.0.113.9", 40000),
    service: str = "service/ops:token-of-ops",
) -> AsyncIterator[Browser]:
    """
    The console before *ops*, the operators' API, in one application as the process has it.

    *others* answers for state and the notifier; without it, both are away.
    """
    async with opened_clients(ops, others, audit=audit, token=read_token(service)) as clients:
        access = Access(tuple(tokens), trusted=PRIVATE_NETWORKS, name_header=name_header, redeem=redeem)
        app = create_app(ops, reporter({}), console=create_console(Console(clients, access, clock=clock)))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=client, raise_app_exceptions=False), base_url=ADDRESS
        ) as http:
            yield Browser(http, app)


@contextlib.asynccontextmanager
async def signed_in(
    ops: ASGIApp, others: ASGIApp | None = None, *, token: str = OPERATOR, **options: Any
) -> AsyncIterator[Browser]:
    """The console, with somebody signed in."""
    async with opened_console(ops, others, **options) as browser:
        answer = await browser.sign_in(token)
        assert answer.status_code == 303, answer.text
        yield browser


def refuse_all() -> httpx.AsyncBaseTransport:
    """Leads to nothing: every service is away."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    return httpx.MockTransport(refuse)
