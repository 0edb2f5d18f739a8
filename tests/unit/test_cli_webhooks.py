"""`modelswap webhooks resend --since` sends what it has counted and asked about, and nothing that came since."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pydantic import JsonValue

from services.cli.operators.client import Operators
from services.cli.problem import Problem
from services.cli.webhooks.endpoints import resend_if_confirmed

WANTED: dict[str, JsonValue] = {"since": "2026-11-29T12:00:00+00:00", "all": False, "reason": "it was down"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def asked(monkeypatch: pytest.MonkeyPatch, typed: str, planned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of an API whose dry run answers *planned*, when *typed* is the answer to the question."""
    sent: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=planned if sent[-1].get("dry_run") else {"deliveries": 2})

    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(handle)) as api:
        with contextlib.suppress(Problem):
            await resend_if_confirmed(api, "e1", WANTED)
    return sent


@pytest.mark.parametrize(
    ("planned", "typed", "then"),
    [
        ({"deliveries": 2, "newest": 17}, "y\n", [{**WANTED, "up_to": 17}]),
        # A notifier of the version before.
        ({"deliveries": 2}, "y\n", [WANTED]),
        ({"deliveries": 2, "newest": 17}, "n\n", []),
        ({"deliveries": 0, "newest": None}, "", []),
    ],
    ids=["yes", "yes, older", "no", "nothing to send"],
)
async def test_just_what_was_counted_is_sent_after_a_yes(monkeypatch, planned, typed, then):
    assert await asked(monkeypatch, typed, planned) == [{**WANTED, "dry_run": True}, *then]
