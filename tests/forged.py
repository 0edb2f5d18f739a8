"""Requests to the console that no page sends: forged, and any that its routes could get."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, cast

import httpx

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
    async with plain_client(base_url=stack.url("ops")) as client:
        answer = await client.post("/sign-in", data={"token": token})
        assert answer.status_code == 303, answer.text
        yield client, csrf_in((await client.get("/")).text)


_ODD: Final = (
    *("", "-1", "0", str(2**63), "9" * 400, "NaN", "1e999", "\x00", "../../etc/passwd", HOSTILE, "x" * 3000),
    *("00000000-0000-0000-0000-000000000000", "open", "rest", "true", "on", "maya", "[1]", '{"a": 1}'),
    *("2026-11-29T00:00:00Z", "0001-01-01T00:00:00+14:00", "24h"),
)
_QUERIES: Final = (
    *("q", "cursor", "limit", "status", "fingerprint", "queue", "since", "until", "text", "outcome", "stage", "show"),
    *("user_id", "actor", "action", "target", "code", "event", "error_code", "training_id", "group", "letters", "v"),
    *("rollback", "withdraw", "undo", "next"),
)
_FIELDS: Final = (
    *("reason", "rate_per_second", "steps", "letters", "group", "fingerprint", "body", "to", "key", "next", "number"),
    *("training_id", "status", "up_to", "period", "since", "all", "token"),
)
_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")


def described(known: Mapping[str, str], csrf: str, methods: Sequence[str]) -> dict[str, Any]:
    """
    Describe the console's routes of these *methods* in OpenAPI, for a person whose forms have the token *csrf*.

    *known* has a value for each parameter of a path, with which there is something to see.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method in methods:
        for path in routes(method):
            names = _PARAMETER.findall(path)
            operation = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = {
                "parameters": [
                    *(_parameter("path", name, {"anyOf": [{"enum": [known[name]]}, _ANYTHING]}) for name in names),
                    *(_parameter("query", name, _ANYTHING) for name in _QUERIES),
                ],
                "responses": {"default": {"description": "A page."}},
            }
            if method == "POST":
                fields = {"csrf": {"const": csrf}, **dict.fromkeys(_FIELDS, _ANYTHING)}
                form = {"schema": {"type": "object", "properties": fields, "required": ["csrf"]}}
                operation["requestBody"] = {"content": {"application/x-www-form-urlencoded": form}}
    return {"openapi": "3.1.0", "info": {"title": "console", "version": "1"}, "paths": paths}


_ANYTHING: Final = {
    "anyOf": [{"enum": list(_ODD)}, {"type": "integer", "minimum": 1, "maximum": 30}, {"type": "string"}]
}


def _parameter(place: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}
