import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx
import pytest

from services.cli import client
from services.cli.client import NotThere, patiently
from services.cli.operators.client import Operators
from services.cli.problem import NoAnswer, NotNow, Problem
from services.cli.product.client import Product
from services.cli.product.trainings import UNDERWAY, find_underway
from services.ops.letters.views import LetterCounts
from services.state.transitions import Stage
from services.state.views import TrainingView
from shared.contract.answers import Page
from shared.contract.identity import ModelName
from tests.state import NOON

TRAINING = TrainingView.model_validate(
    {
        **dict.fromkeys(TrainingView.model_fields),
        "ref": UUID(int=1),
        "user_id": "ann",
        "generation": 1,
        "stage": Stage.RUNNING,
        "current": False,
        "destination": ModelName("acme", "ann"),
        "trigger_word": "TOK",
        "progress": 0,
        "requested_at": NOON,
        "updated_at": NOON,
    }
)


def away_for(*problems: Problem) -> Callable[[], Awaitable[str]]:
    waiting = list(problems)

    async def ask() -> str:
        if waiting:
            raise waiting.pop(0)
        return "the answer"

    return ask


@pytest.fixture(autouse=True)
def asks_at_once(monkeypatch):
    monkeypatch.setattr(client, "_AGAIN_SECONDS", 0.0)


async def test_a_watch_waits_for_a_restart_and_says_so_once(capsys):
    ask = away_for(NoAnswer("nobody", then=""), NotNow("no database", then=""), NoAnswer("nobody", then=""))

    answer = await patiently(ask)

    assert answer == "the answer"
    assert capsys.readouterr().err == "nobody; waiting for it\n"


async def test_whoever_watches_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(client, "_PATIENCE_SECONDS", 0.0)

    with pytest.raises(NoAnswer, match="nobody"):
        await patiently(away_for(*[NoAnswer("nobody", then="")] * 1_000_000))


async def test_a_refusal_is_not_waited_for():
    with pytest.raises(Problem, match="no such training"):
        await patiently(away_for(Problem("no such training", then="")))


async def test_all_trainings_are_found_that_are_underway():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        stage = Stage(request.url.params["stage"])
        asked.append(stage)
        # One of them moves on meanwhile.
        items = [TRAINING.model_copy(update={"stage": stage, "ref": UUID(int=ref)}) for ref in (len(asked), 9)]
        return httpx.Response(200, json=Page(items=items, next_cursor=None).model_dump(mode="json"))

    async with Product("http://state", "token", transport=httpx.MockTransport(answer)) as api:
        found = await find_underway(api)

    assert asked == list(UNDERWAY)
    assert sorted((each.ref.int, each.stage) for each in found) == [
        (1, "requested"),
        (2, "running"),
        (3, "verifying"),
        (9, "verifying"),
    ]


async def test_an_empty_id_is_named_before_anybody_is_asked():
    async with Product("http://127.0.0.1:1", "token") as api:
        with pytest.raises(Problem, match="an empty id names nothing"):
            await api.get_training("")


async def test_a_hung_server_is_named_after_a_deadline(monkeypatch):
    monkeypatch.setattr(Operators, "_read_seconds", 0.2)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        await reader.read()  # until the client hangs up
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        port = server.sockets[0].getsockname()[1]
        async with Operators(f"http://127.0.0.1:{port}", "token") as api:
            with pytest.raises(NotNow, match="did not answer in time: it hangs") as caught:
                await api.list_replays(limit=1)
        server.close()

    assert caught.value.then == "modelswap doctor"


def answering(status: int, **problem: object) -> Operators:
    answer = httpx.MockTransport(lambda _: httpx.Response(status, json={"detail": "there is none", **problem}))
    return Operators("http://ops", "token", transport=answer)


@pytest.mark.parametrize(
    ("path", "then"),
    [
        ("/v1/dead-letters/17", "modelswap dead-letters list"),
        ("/v1/replays/5f0e", "modelswap replays list"),
        ("/v1/subscriptions/generator", "modelswap subscriptions list"),
        ("/v1/webhook-endpoints/5f0e", "modelswap webhooks list"),
        ("/v1/of-a-newer-version", "modelswap config show"),
    ],
)
async def test_after_a_404_the_list_of_such_things_is_next(path: str, then: str):
    async with answering(404) as api:
        with pytest.raises(NotThere, match="there is none") as caught:
            await api.get(LetterCounts, path)

    assert caught.value.then == then


async def test_a_user_without_a_model_may_have_a_history():
    answer = httpx.MockTransport(lambda _: httpx.Response(404, json={"detail": "user a b has no model"}))
    async with Product("http://state", "token", transport=answer) as api:
        with pytest.raises(NotThere) as caught:
            await api.get_model("a b")

    assert caught.value.then == "modelswap models history 'a b', or modelswap trainings list --user 'a b'"


@pytest.mark.parametrize(
    ("pointer", "name"),
    [("query.status", "status"), ("path.number", "number"), ("#/reason", "reason"), ("#/steps/1", "steps")],
)
async def test_a_wrong_part_is_named_as_it_was_typed(pointer: str, name: str):
    async with answering(422, errors=[{"pointer": pointer, "detail": "must be text"}]) as api:
        with pytest.raises(Problem, match=f"^{name}: must be text$"):
            await api.get(LetterCounts, "/v1/dead-letters")


async def test_a_refused_token_is_said_with_the_address():
    async with answering(401) as api:
        with pytest.raises(Problem, match="the operators' API at http://ops does not accept the first token"):
            await api.get(LetterCounts, "/v1/dead-letters")
