"""Replicate's client against a server that answers as told: every call, every way to go wrong, and no token astray."""

import asyncio
import gzip
import json
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from shared.contract.errors import DependencyDown
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.client import REPLICATE_URL, Replicate
from shared.replicate.errors import BadAnswer, ForeignAddress, NoAnswer, NotThere, OperatorNeeded, Refused, Unknown
from shared.replicate.routes import NO_ANSWER, NO_CONNECTION

TOKEN = "r8_canary"
REF = ModelRef("acme", "u-42", "9" * 64)
TRAINER = ModelRef("ostris", "flux-dev-lora-trainer", "e" * 64)
TRAINING = {"id": "abc", "status": "starting"}


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """Answers with the bytes it was given, in order, the last one over and over; an unfinished answer hangs."""

    answers: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hangs: bool = False
    #: Nobody is answered before so many have asked.
    at_once: int = 1
    url: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    have_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        start, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = start.split(" ")
        self.requests.append(Request(method, target, headers, body))
        if len(self.requests) == self.at_once:
            self.have_asked.set()
        await self.have_asked.wait()
        try:
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
            if self.hangs:
                await self.over.wait()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass  # the client had enough of it

    def will_say(self, *bodies: Any, status: int = 200, **headers: str) -> None:
        self.answers = [answer(json.dumps(body).encode(), status, **headers) for body in bodies]


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        server.over.set()


@pytest.fixture
async def replicate(server: Server) -> AsyncIterator[Replicate]:
    async with Replicate(TOKEN, server.url) as replicate:
        yield replicate


@pytest.fixture
async def impatient(server: Server) -> AsyncIterator[Replicate]:
    async with Replicate(TOKEN, server.url, timeout_seconds=0.1) as replicate:
        yield replicate


async def create(replicate: Replicate) -> Any:
    return await replicate.create_training(
        TRAINER, ModelName("acme", "u-42"), {"steps": 10}, "https://hooks.example.com/?ref=x", ["start", "completed"]
    )


async def test_a_training_is_asked_for_with_the_token(server, replicate):
    server.will_say({**TRAINING, "output": {"version": str(REF)}})

    training = await replicate.get_training("abc")

    assert training.output == {"version": str(REF)}
    (request,) = server.requests
    assert (request.method, request.target) == ("GET", "/v1/trainings/abc")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["accept-encoding"] == "identity"


async def test_each_of_many_callers_is_asked_for_at_once(server, replicate):
    server.will_say(TRAINING)
    server.at_once = 64

    found = await asyncio.gather(*(replicate.get_training("abc") for _ in range(64)))

    assert len(found) == 64


async def test_a_request_is_counted_by_its_route_without_ids(server, unused_port):
    seen: list[tuple[str, str]] = []

    def observe(route: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        seen.append((route, status))

    server.will_say(TRAINING)
    async with Replicate(TOKEN, server.url, observe=observe) as replicate:
        await replicate.cancel_training("abc")
        server.will_say({}, status=404)
        with pytest.raises(NotThere):
            await replicate.get_version(REF)
        server.answers = [answer(b"{")[:-1]]
        with pytest.raises(NoAnswer):
            await replicate.account()
    async with Replicate(TOKEN, f"http://127.0.0.1:{unused_port}", observe=observe) as replicate:
        with pytest.raises(DependencyDown):
            await replicate.list_trainings()

    assert seen == [
        ("POST /v1/trainings/{id}/cancel", "200"),
        ("GET /v1/models/{owner}/{name}/versions/{version}", "404"),
        ("GET /v1/account", NO_ANSWER),
        ("GET /v1/trainings", NO_CONNECTION),
    ]


async def test_a_training_is_created_with_everything_it_needs(server, replicate):
    server.will_say(TRAINING, status=201)

    training = await create(replicate)

    assert training.id == "abc"
    (request,) = server.requests
    assert request.target == f"/v1/models/ostris/flux-dev-lora-trainer/versions/{'e' * 64}/trainings"
    assert json.loads(request.body) == {
        "destination": "acme/u-42",
        "input": {"steps": 10},
        "webhook": "https://hooks.example.com/?ref=x",
        "webhook_events_filter": ["start", "completed"],
    }


async def test_a_run_is_created_with_an_end_to_its_cost(server, replicate):
    server.will_say({"id": "run", "status": "starting"}, status=202)

    prediction = await replicate.create_prediction(REF, {"prompt": "x"}, 90)

    assert prediction.id == "run"
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/predictions")
    assert request.headers["cancel-after"] == "90s"
    assert json.loads(request.body) == {"version": str(REF), "input": {"prompt": "x"}}


@pytest.mark.parametrize(
    ("call", "target"),
    [
        (lambda replicate: replicate.cancel_training("abc"), "POST /v1/trainings/abc/cancel"),
        (lambda replicate: replicate.get_prediction("abc"), "GET /v1/predictions/abc"),
    ],
)
async def test_a_job_is_asked_for_and_canceled_by_its_id(server, replicate, call, target):
    server.will_say({"id": "abc", "status": "canceled"})

    job = await call(replicate)

    assert job.status == "canceled"
    assert [f"{request.method} {request.target}" for request in server.requests] == [target]


async def test_a_version_says_what_it_takes(server, replicate):
    schema = {"properties": {"prompt": {"type": "string"}, "seed": {"type": "integer"}}, "required": ["prompt"]}
    server.will_say(
        {
            "id": REF.version,
            "created_at": "2024-12-29T16:39:07Z",
            "openapi_schema": {"components": {"schemas": {"Input": schema}}},
        }
    )

    version = await replicate.get_version(REF)

    assert version.id == REF.version
    assert version.created_at is not None
    assert version.input_schema is not None
    assert version.input_schema.required == {"prompt"}
    assert version.input_schema.takes_text("prompt")
    assert not version.input_schema.takes_text("seed")
    assert not version.input_schema.takes_text("image")
    assert server.requests[0].target == f"/v1/models/acme/u-42/versions/{'9' * 64}"


async def test_versions_are_listed_page_by_page(server, replicate):
    server.will_say(
        {"results": [{"id": "a"}, {"id": "b"}], "next": "https://elsewhere.example.com/v1/x?cursor=c%3D1"},
        {"results": [{"id": "c"}], "next": None},
    )

    versions = await replicate.list_versions(ModelName("acme", "u-42"))

    assert [version.id for version in versions] == ["a", "b", "c"]
    assert [request.target for request in server.requests] == [
        "/v1/models/acme/u-42/versions",
        "/v1/models/acme/u-42/versions?cursor=c%3D1",
    ]


async def test_a_list_of_versions_is_kept_without_their_schemas(server, replicate):
    server.will_say({"results": [{"id": "a", "openapi_schema": {"components": {}}}], "next": None})

    (version,) = await replicate.list_versions(ModelName("acme", "u-42"))

    assert version.model_dump() == {"id": "a", "created_at": None}


async def test_a_list_without_end_is_not_followed_for_ever(server, replicate):
    server.will_say({"results": [{"id": "a"}], "next": "?cursor=more"})

    versions = await replicate.list_versions(ModelName("acme", "u-42"))

    assert len(versions) == len(server.requests) == 10


async def test_trainings_are_listed_without_the_broken_ones(server, replicate):
    server.will_say({"results": [TRAINING, {"id": "a/b"}, None], "next": "/?cursor=older"}, {"results": []})

    page = await replicate.list_trainings()
    last = await replicate.list_trainings(page.next_cursor)

    assert [training.id for training in page.trainings] == ["abc"]
    assert server.requests[1].target == "/v1/trainings?cursor=older"
    assert last.next_cursor is None


async def test_text_that_was_cut_within_an_emoji_makes_no_list_unreadable(server, replicate):
    half = "a fox \ud83e"
    server.will_say({"results": [{**TRAINING, "error": half, "input": {"caption": half}}, {**TRAINING, "id": "abd"}]})
    page = await replicate.list_trainings()
    server.will_say({"id": REF.version, "openapi_schema": {"components": {"default": half}}})
    version = await replicate.get_version(REF)

    assert [(training.id, training.error) for training in page.trainings] == [("abc", "a fox ?"), ("abd", None)]
    assert version.id == REF.version


async def test_runs_are_listed_without_invalid_ones_and_bounded(server, replicate):
    server.will_say({"results": [{"id": "run", "status": "starting"}, {"id": "a/b"}, None], "next": "/?cursor=older"})

    runs = await replicate.list_predictions()

    assert [run.id for run in runs] == ["run"] * 3
    assert [request.target for request in server.requests] == [
        "/v1/predictions",
        "/v1/predictions?cursor=older",
        "/v1/predictions?cursor=older",
    ]


async def test_the_account_and_its_webhook_secret_are_known(server, replicate):
    server.will_say({"key": "whsec_abc"}, {"type": "user", "username": "acme"})

    assert await replicate.webhook_secret() == "whsec_abc"
    assert await replicate.account() == "acme"
    assert [request.target for request in server.requests] == ["/v1/webhooks/default/secret", "/v1/account"]


@pytest.mark.parametrize("training_id", ["", ".", ".."])
async def test_an_id_that_would_lead_elsewhere_is_not_asked_for(server, replicate, training_id):
    with pytest.raises(ValueError, match="not valid ids"):
        await replicate.get_training(training_id)

    assert server.requests == []


async def test_an_id_stays_within_its_place_in_the_path(server, replicate):
    server.will_say(TRAINING)

    await replicate.cancel_training("../account?x#y")

    assert server.requests[0].target == "/v1/trainings/..%2Faccount%3Fx%23y/cancel"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Refused), (401, OperatorNeeded), (404, NotThere), (422, NotThere), (429, DependencyDown), (502, NoAnswer)],
)
async def test_a_refusal_becomes_the_error_that_says_who_can_heal_it(server, replicate, status, kind):
    server.will_say({"detail": "because"}, status=status, Retry_After="7")

    with pytest.raises(kind, match=rf"get training abc: {status} because") as caught:
        await replicate.get_training("abc")

    assert getattr(caught.value, "retry_after_seconds", 7) in (7, None)


async def test_a_redirect_is_not_followed(server, replicate):
    server.answers = [answer(b"", 301, Location=f"{server.url}/v1/trainings/other")]

    with pytest.raises(BadAnswer, match="301"):
        await replicate.get_training("abc")

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        answer(b"<html>"),
        answer(b"{}"),
        answer(b""),
        answer(gzip.compress(json.dumps(TRAINING).encode()), Content_Encoding="gzip"),
        answer(b'{"id": "abc", "status": "starting", "logs": "' + b"x" * 8 * 1024 * 1024 + b'"}'),
    ],
    ids=["html", "no training", "nothing", "compressed", "too large"],
)
async def test_an_answer_that_can_not_be_read_is_a_bad_one(server, replicate, said):
    server.answers = [said]

    with pytest.raises(BadAnswer):
        await replicate.get_training("abc")


async def test_an_answer_about_another_one_is_a_bad_one(server, replicate):
    server.will_say({"id": "other", "status": "succeeded", "output": {"version": str(REF)}})

    for ask in (replicate.get_training, replicate.get_prediction):
        with pytest.raises(BadAnswer, match="about another one, other"):
            await ask("abc")


async def test_a_secret_that_can_not_be_read_is_not_repeated(server, replicate):
    server.will_say({"key": {"whsec_hidden": 1}})

    with pytest.raises(BadAnswer) as caught:
        await replicate.webhook_secret()

    assert "whsec_hidden" not in "".join(traceback.format_exception(caught.value))


HANGING = [b"", answer(json.dumps(TRAINING).encode())[:-1]]


@pytest.mark.parametrize("unfinished", HANGING, ids=["silence", "all but the last byte"])
async def test_an_answer_that_does_not_end_is_given_up(server, impatient, unfinished):
    server.answers, server.hangs = [unfinished], True

    with pytest.raises(NoAnswer, match="no answer"):
        await impatient.get_training("abc")


@pytest.mark.parametrize("unfinished", HANGING, ids=["silence", "all but the last byte"])
async def test_an_answer_that_breaks_off_is_none(server, replicate, unfinished):
    server.answers = [unfinished]

    with pytest.raises(NoAnswer):
        await replicate.get_training("abc")


async def test_nobody_there_is_known_to_have_done_nothing(unused_port):
    async with Replicate(TOKEN, f"http://127.0.0.1:{unused_port}") as replicate:
        with pytest.raises(DependencyDown, match="no connection") as caught:
            await create(replicate)

    assert type(caught.value) is DependencyDown


@pytest.fixture
async def unused_port() -> int:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as listening:
        port: int = listening.sockets[0].getsockname()[1]
    return port


@pytest.mark.parametrize(
    "said", [b"", answer(b"", 500), answer(b"", 503), answer(b"<html>")], ids=["silence", "500", "503", "html"]
)
async def test_a_lost_answer_leaves_the_start_unknown(server, replicate, said):
    server.answers = [said]

    with pytest.raises(Unknown, match="may have started"):
        await create(replicate)

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (402, OperatorNeeded), (404, NotThere), (422, NotThere), (429, DependencyDown)]
)
async def test_a_training_that_was_refused_did_not_start(server, replicate, status, kind):
    server.will_say({}, status=status)

    with pytest.raises(kind):
        await create(replicate)


async def test_a_file_is_fetched_without_the_token(server, replicate):
    server.answers = [answer(b"\x89PNG")]

    content = await replicate.fetch_output(f"{server.url}/delivery/out-0.png")

    assert content == b"\x89PNG"
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("status", "kind"), [(401, NotThere), (403, NotThere), (404, NotThere), (302, NotThere), (500, NoAnswer)]
)
async def test_a_file_that_is_gone_is_no_operators_problem(server, replicate, status, kind):
    server.answers = [answer(b"", status, Location=server.url)]

    with pytest.raises(kind):
        await replicate.fetch_output(f"{server.url}/delivery/out-0.png")

    assert len(server.requests) == 1


FOREIGN = [
    "",
    "out.png",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "http://replicate.delivery/out.png",
    "https://replicate.delivery:8443/out.png",
    "https://user@replicate.delivery/out.png",
    "https://replicate.delivery.example.com/out.png",
    "https://notreplicate.delivery/out.png",
    "https://example.com/replicate.delivery",
    "https://.replicate.delivery/out.png",
    "https://a..replicate.delivery/out.png",
    "https://-.replicate.delivery/out.png",
    "https://replicate.delivery./out.png",
    "https://example.com\\.replicate.delivery/out.png",
    "https://example.com%2f.replicate.delivery/out.png",
    "https://a b.replicate.delivery/out.png",
    f"https://{'a' * 64}.replicate.delivery/out.png",
    "https://example.com\\@replicate.delivery/out.png",
    "https://replicate.com/out.png",
    "https://api.replicate.com/v1/account",
    "https://127.0.0.1/out.png",
    "http://127.1/out.png",
    "http://0x7f.1/out.png",
    "http://2130706433/out.png",
    "http://[::ffff:127.0.0.1]/out.png",
    "http://169.254.169.254/latest/meta-data",
    "http://[",
]


@pytest.mark.parametrize("url", FOREIGN)
@pytest.mark.parametrize("api", [REPLICATE_URL, "http://127.0.0.1:9"])
async def test_nothing_is_fetched_from_anywhere_else(api, url):
    async with Replicate(TOKEN, api) as replicate:
        with pytest.raises(ForeignAddress):
            await replicate.fetch_output(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://replicate.delivery/xezq/abc/out-0.webp",
        "https://pbxt.replicate.delivery/abc/out.png",
        "https://REPLICATE.delivery:443/x",
    ],
)
async def test_replicates_own_files_may_be_fetched(url):
    async with Replicate(TOKEN) as replicate:
        assert replicate._serves_files(httpx.URL(url))


@pytest.mark.parametrize("token", ["r8_canary\n", "r8 canary", "r8_cänary", "r8_canary\x00"])
def test_an_unsendable_token_is_refused_and_not_shown(token):
    with pytest.raises(ValueError, match="API token") as caught:
        Replicate(token)

    assert "nary" not in str(caught.value)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 nonsense\r\n\r\n", *(answer(b"", status) for status in (401, 422, 500))]
)
async def test_no_error_holds_the_token(server, replicate, said):
    server.answers = [said]

    with pytest.raises((DependencyDown, NotThere)) as caught:
        await replicate.get_training("abc")

    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert TOKEN not in repr(replicate) + repr(vars(caught.value))


async def test_without_a_token_it_is_replicate_who_refuses(server):
    server.will_say({"title": "Unauthenticated"}, status=401)

    async with Replicate("", server.url) as replicate:
        with pytest.raises(OperatorNeeded):
            await replicate.account()

    assert "authorization" not in server.requests[0].headers


async def test_calls_beyond_the_rate_wait_for_their_turn(server):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server.will_say({"id": "run", "status": "starting"})
    async with Replicate(TOKEN, server.url, clock=lambda: 0.0, sleep=sleep) as replicate:
        for _ in range(56):
            await replicate.create_prediction(REF, {}, 90)
        await replicate.get_prediction("run")

    assert len(waits) == 2
    assert 0 < waits[0] < waits[1]


async def test_a_local_simulator_is_called_without_the_proxy(server, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    server.will_say({"username": "acme"})

    async with Replicate(TOKEN, server.url) as near, Replicate(TOKEN, "http://api.replicate.invalid") as far:
        await near.account()
        await far.account()

    # A proxy is told the whole address.
    assert [each.target for each in server.requests] == ["/v1/account", "http://api.replicate.invalid/v1/account"]
