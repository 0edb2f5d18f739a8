"""What is asked of the other services, and what does each answer of theirs mean?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.ops.replays.client import Services
from services.ops.replays.records import Revert
from services.state.views import RollBack
from shared.contract.errors import DependencyDown

REVERT = Revert(UUID(int=1), "user-1", 7, "acme/ann:" + "a" * 64, "they are blurred", "olga")


@contextlib.asynccontextmanager
async def answering(status: int, answer: Any) -> AsyncIterator[tuple[Services, list[httpx.Request]]]:
    """A client of services that all give this answer."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json=answer)

    async with Services(extractor_url="http://extractor", state_url="http://state", token="a-token") as client:
        await client._http.aclose()
        client._http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
        yield client, asked


def problem(kind: str, status: int) -> dict[str, Any]:
    return {"type": f"urn:modelswap:problem:{kind}", "title": kind, "status": status, "detail": f"it is {kind}"}


@pytest.mark.parametrize("length", [1, 947, 948, 1000])
async def test_however_long_the_reason_of_an_undo_state_takes_it(length: int):
    revert = Revert(REVERT.replay_id, REVERT.user_id, 7, REVERT.to, "x" * length, REVERT.actor)

    async with answering(200, {}) as (client, asked):
        assert await client.roll_back(revert) is None

    sent = RollBack.model_validate_json(asked[0].content)
    assert sent.reason.startswith(f"undo of replay {REVERT.replay_id}: x")
    assert sent.reason.endswith("…") == (length > 947)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, "no-model"),
        (409, "user-deleted"),
        (409, "nothing-to-roll-back-to"),
        (409, "already-current"),
        (412, "precondition-failed"),
        (422, "not-their-model"),
    ],
)
async def test_what_state_says_of_a_user_is_why_their_model_is_kept(status: int, kind: str):
    async with answering(status, problem(kind, status)) as (client, _):
        assert await client.roll_back(REVERT) == f"it is {kind}"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (422, problem("invalid", 422)),
        (422, problem("idempotency-key-reused", 422)),
        (404, problem("not-found", 404)),
        (404, {"detail": "Not Found"}),
        (401, problem("unauthorized", 401)),
        (503, problem("unavailable", 503)),
    ],
)
async def test_any_other_answer_leaves_an_undo_to_be_done(status: int, answer: Any):
    async with answering(status, answer) as (client, _):
        with pytest.raises(DependencyDown, match=f"user-1.* {status}"):
            await client.roll_back(REVERT)
