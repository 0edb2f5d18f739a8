"""Requests to the console that no page sends: forged, odd, and any that its routes could get."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, cast
from urllib.parse import quote

import httpx
from hypothesis import strategies as st

from services.ops.console.app import SCREENS
from services.ops.console.console import Console
from tests.console import csrf_in
from tests.scene import HOSTILE
from tests.stack import Stack, plain_client


def routes(method: str) -> list[str]:
    """The paths of the console's routes with that method."""
    every = [route for screen in SCREENS for route in screen(cast("Console", None))]
    return [each.path for each in every if method in (each.methods or ())]


def filled(path: str, value: str = "1") -> str:
    """A path with *value* for each of its parameters."""
    parts = [part.partition("{") for part in path.split("}")]
    return "".join(fixed + (value if name else "") for fixed, name, _ in parts)


@contextlib.asynccontextmanager
async def session(stack: Stack, token: str) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client that has signed in, and its CSRF token."""
    async with plain_client(base_url=stack.url("ops"), timeout=60) as client:
        answer = await client.post("/sign-in", data={"token": token})
        assert answer.status_code == 303, answer.text
        yield client, csrf_in((await client.get("/")).text)


_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_ODD: Final = st.sampled_from(
    [
        *("", "-1", "0", str(2**63), "9" * 400, "NaN", "1e999", "\x00", "../../etc/passwd", HOSTILE, "x" * 3000),
        *("00000000-0000-0000-0000-000000000000", "open", "rest", "true", "maya", "[1]", '{"a": 1}'),
        *("2026-11-29T00:00:00Z", "0001-01-01T00:00:00+14:00", "24h"),
    ]
)
_VALUE: Final = st.one_of(_ODD, st.integers(1, 30).map(str), _TEXT)
_SEGMENT: Final = st.one_of(_VALUE.map(lambda text: quote(text, safe="")), st.sampled_from(["%FF", "%00", "%2e%2e"]))
_QUERIES: Final = st.sampled_from(
    [
        *(
            "q",
            "cursor",
            "limit",
            "status",
            "fingerprint",
            "queue",
            "since",
            "until",
            "text",
            "outcome",
            "stage",
            "odd",
        ),
        *("odd", "user_id", "actor", "action", "target", "code", "event", "error_code", "training_id", "group"),
    ]
)
_FIELDS: Final = st.sampled_from(
    [
        *("reason", "rate_per_second", "steps", "letters", "group", "body", "to", "key", "next", "dry_run", "number"),
        *("training_id", "status", "odd"),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], dict[str, str]]:
    """Any request of a signed-in operator: its method, path, query and form."""
    method, path = draw(st.sampled_from([(each, path) for each in ("GET", "POST") for path in routes(each)]))
    parts = [part.partition("{") for part in path.split("}")]
    asked = "".join(fixed + (draw(_SEGMENT) if name else "") for fixed, name, _ in parts)
    query = draw(st.dictionaries(_QUERIES, _VALUE, max_size=4))
    form = draw(st.dictionaries(_FIELDS, _VALUE, max_size=5)) if method == "POST" else {}
    return method, asked, query, form
