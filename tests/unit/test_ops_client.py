"""What is asked of the other services, and what does each answer of theirs mean?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.ops.client import Services
from services.ops.reconcile.trainings import StateRefused
from services.ops.replays.records import Revert
from services.state.requests import FindTrainings, RollBack, Withdraw
from shared.contract.preview import Message
from shared.runtime.client import HttpClient, ServiceDown, ServiceFailed
from shared.runtime.tokens import ON_BEHALF_OF, Token, read_token

REVERT = Revert(UUID(int=1), "user-1", 7, "acme/ann:" + "a" * 64, "they are blurred", "olga")
TOKEN = read_token("service/ops:a-token")
MESSAGE = Message.model_construct(None, headers={}, content_type=None, body=b"{}")


@contextlib.asynccontextmanager
async def opened(
    state_url: str, token: Token = TOKEN, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Services]:
    async with (
        HttpClient(f"{state_url}/v1", token=token.secret, transport=transport) as state,
        HttpClient("http://extractor", token=token.secret, transport=transport) as extractor,
    ):
        yield Services(state, extractor, may_speak_for_others=token.caller.may_speak_for_others)


@contextlib.asynccontextmanager
async def answering(
    status: int, answer: Any, token: Token = TOKEN
) -> AsyncIterator[tuple[Services, list[httpx.Request]]]:
    """A client of services that all give this answer."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json=answer)

    async with opened("http://state", token, httpx.MockTransport(handle)) as client:
        yield client, asked


#: One of each kind of question.
QUESTIONS: dict[str, Callable[[Services], Awaitable[Any]]] = {
    "unfinished": lambda services: anext(services.unfinished()),
    "knows": lambda services: services.knows("t1"),
    "find_trainings": lambda services: services.find_trainings(["t1"]),
    "retry_extraction": lambda services: services.retry_extraction("t1"),
    "never_started": lambda services: services.never_started(UUID(int=1), "nobody heard of it"),
    "preview_extractor": lambda services: services.preview_extractor(MESSAGE),
    "preview_state": lambda services: services.preview_state(MESSAGE),
    "revert_model": lambda services: services.revert_model(REVERT),
}


def problem(kind: str, status: int) -> dict[str, Any]:
    return {"type": f"urn:modelswap:problem:{kind}", "title": kind, "status": status, "detail": f"it is {kind}"}


@pytest.mark.parametrize("name", [str(UUID(int=1)), "two words", "../users/ada", "t" * 129])
async def test_what_is_no_training_id_in_a_letter_is_not_asked_for(name: str):
    async with answering(200, {"items": [], "next_cursor": None}) as (client, asked):
        await client.find_trainings([name, "t1"])
        await client.find_trainings([name])

    assert [FindTrainings.model_validate_json(each.content).training_ids for each in asked] == [("t1",)]


@pytest.mark.parametrize("length", [1, 947, 948, 1000])
async def test_however_long_the_reason_of_an_undo_state_takes_it(length: int):
    revert = Revert(REVERT.replay_id, REVERT.user_id, 7, REVERT.to, "x" * length, REVERT.actor)

    async with answering(200, {}) as (client, asked):
        assert await client.revert_model(revert) is None

    sent = RollBack.model_validate_json(asked[0].content)
    assert sent.reason.startswith(f"undo of replay {REVERT.replay_id}: x")
    assert sent.reason.endswith("…") == (length > 947)


async def test_undo_of_a_first_model_withdraws_it():
    async with answering(200, {}) as (client, asked):
        assert await client.revert_model(replace(REVERT, to=None)) is None

    assert asked[0].url.path == "/v1/users/user-1/model/withdraw"
    assert asked[0].headers["If-Match"] == '"7"'
    assert Withdraw.model_validate_json(asked[0].content).reason.endswith("they are blurred")


@pytest.mark.parametrize(
    ("token", "header", "reason"),
    [
        ("service/ops:a-token", "olga", f"undo of replay {REVERT.replay_id}: they are blurred"),
        ("a-token", None, f"undo of replay {REVERT.replay_id} by olga: they are blurred"),
    ],
)
async def test_an_undo_says_who_asked_for_it_whatever_token_we_have(token: str, header: str | None, reason: str):
    async with answering(200, {}, read_token(token)) as (client, asked):
        await client.revert_model(REVERT)

    assert asked[0].headers.get(ON_BEHALF_OF) == header
    assert RollBack.model_validate_json(asked[0].content).reason == reason


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
        assert await client.revert_model(REVERT) == f"it is {kind}"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (422, problem("invalid", 422)),
        (422, problem("idempotency-key-reused", 422)),
        (404, problem("not-found", 404)),
        (404, {"detail": "Not Found"}),
        (503, problem("unavailable", 503)),
    ],
)
async def test_any_other_answer_leaves_an_undo_to_be_done(status: int, answer: Any):
    async with answering(status, answer) as (client, _):
        with pytest.raises(ServiceDown, match=f"user-1.* {status}"):
            await client.revert_model(REVERT)


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, "check MODELSWAP_API_TOKENS"), (403, "check MODELSWAP_API_TOKENS"), (500, "answered 500")],
)
@pytest.mark.parametrize("asked", QUESTIONS)
async def test_unreachable_service_is_down_for_every_request(asked: str, status: int, why: str):
    async with answering(status, {}) as (client, _):
        with pytest.raises(ServiceDown, match=why):
            await QUESTIONS[asked](client)


async def test_an_answer_that_can_not_be_read_is_of_another_version():
    async with answering(200, {}) as (client, _):
        with pytest.raises(ServiceDown, match="another version"):
            await client.find_trainings(["t1"])


UNFINISHED = {
    "ref": str(UUID(int=1)),
    "training_id": "t1",
    "user_id": "user-1",
    "stage": "running",
    "destination": "acme/ann",
    "trainer": None,
    "total_steps": None,
    "requested_at": "2026-11-24T12:00:00Z",
    "started_at": None,
    "updated_at": "2026-11-24T12:00:00Z",
}


async def test_a_training_that_can_not_be_read_hides_no_other():
    unreadable = {**UNFINISHED, "ref": str(UUID(int=2)), "destination": "of a version to come"}
    page = {"items": [unreadable, "a text", UNFINISHED], "next_cursor": None}

    async with answering(200, page) as (client, _):
        found = [training.ref async for training in client.unfinished()]

    assert set(found) == {UUID(int=1)}
    assert len(client.aside) == 2


async def test_unreadable_trainings_mean_another_version_of_state():
    async with answering(200, {"items": [{}], "next_cursor": None}) as (client, _):
        with pytest.raises(ServiceDown, match="another version"):
            await anext(client.unfinished())


async def test_a_service_that_is_not_there_is_named():
    async with opened("http://127.0.0.1:1") as client:
        with pytest.raises(ServiceDown, match=r"http://127.0.0.1:1/v1/trainings/t1 does not answer \(ConnectError\)"):
            await client.knows("t1")


async def test_what_state_refuses_is_an_error_of_its_own():
    async with answering(409, {"detail": "still running"}) as (client, _):
        with pytest.raises(StateRefused, match=r"^still running$"):
            await client.retry_extraction("t1")


async def test_a_state_that_can_not_find_many_trainings_finds_none():
    async with answering(404, problem("not-found", 404)) as (client, _):
        assert await client.find_trainings(["t1"]) == {}


async def test_an_answer_without_end_is_not_read_to_its_end():
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64:
            sent += 1
            yield b" " * 1024 * 1024

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body()))
    async with opened("http://state", transport=transport) as client:
        with pytest.raises(ServiceFailed, match="more than 8388608 bytes"):
            await client.find_trainings(["t1"])

    assert sent == 9
