"""Which answer does a webhook get, and what is published? Every recorded body, and everything hostile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message
from structlog.testing import capture_logs

from services.receiver.app import WebhookEndpoint, create_app
from services.receiver.webhook_secrets import Secrets
from shared.contract.envelope import decode
from shared.contract.errors import DependencyDown
from shared.contract.events import (
    Event,
    TrainingCanceled,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName
from shared.contract.limits import Unpublishable
from shared.contract.topology import DEAD_EXCHANGE, RECEIVER, topology
from shared.replicate.signature import sign
from shared.replicate.webhook_url import Claim, webhook_url
from shared.runtime import telemetry
from shared.runtime.broker import Outgoing, TopologyMismatch, Unconfirmed
from tests.counts import counted, observed

FOLDER = Path(__file__).parent.parent / "fixtures" / "webhooks"
INDEX = [json.loads(line) for line in (FOLDER / "index.jsonl").read_text().splitlines()]
SECRET = INDEX[0]["secret"]
OTHER_SECRET = "whsec_" + "b3RoZXIgc2VjcmV0IG90aGVyIHNlY3JldA=="
NOW = 1_790_000_000
LIMIT = 4 * 1024 * 1024
GOOD = b'{"id":"abc","status":"succeeded","output":{"version":"x"}}'

EXPECTED: dict[str, type[Event]] = {
    "01": TrainingStarted,
    "02": TrainingStarted,
    "03": TrainingProgressed,
    "04": TrainingProgressed,
    "05": TrainingProgressed,
    "06": TrainingProgressed,
    "07": TrainingSucceeded,
    "08": TrainingSucceeded,
    "09": TrainingFailed,
    "10": TrainingFailed,
    "11": TrainingFailed,
    "12": TrainingCanceled,
    "13": TrainingCanceled,
    "14": TrainingCanceled,
    "15": TrainingProgressed,
    "16": TrainingSucceeded,
    "17": TrainingSucceeded,
    "18": TrainingSucceeded,
    "19": TrainingSucceeded,
    "20": TrainingSucceeded,
    "21": TrainingSucceeded,
}


@dataclass
class Published:
    """A publisher that keeps what it is given."""

    messages: list[Outgoing] = field(default_factory=list)
    broken: Exception | None = None
    #: Where a message goes that is not refused all the same.
    takes: str | None = None

    async def publish(self, message: Outgoing) -> None:
        if self.broken is not None and message.exchange != self.takes:
            raise self.broken
        self.messages.append(message)

    def events(self) -> list[Event]:
        return [decode(m.headers, m.content_type, m.body).event for m in self.messages]


@dataclass
class Account:
    """Replicate's account, with the secret that it shows now."""

    secret: str = SECRET
    asked: int = 0
    down: bool = False

    async def webhook_secret(self) -> str:
        self.asked += 1
        if self.down:
            raise DependencyDown("Replicate is away")
        return self.secret


def app_of(published: Published, secrets: Secrets) -> Starlette:
    endpoint = WebhookEndpoint(
        publisher=published,
        secrets=secrets,
        topology=topology(),
        ref_secrets=("ref-secret",),
        tolerance_seconds=300,
        max_body_bytes=LIMIT,
        clock=lambda: NOW,
    )
    return create_app(endpoint)


def client_of(published: Published, secrets: Secrets) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_of(published, secrets), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://receiver")


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def receiver(published: Published) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(published, Secrets((SECRET,), None, lambda: 0.0)) as client:
        yield client


def signed(body: bytes, *, secret: str = SECRET, at: int = NOW, message_id: str = "msg_1") -> dict[str, str]:
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(secret, message_id, at, body),
        "content-type": "application/json",
    }


async def post(
    receiver: httpx.AsyncClient,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    path: str = "/webhooks/replicate",
) -> httpx.Response:
    return await receiver.post(path, content=body, headers=headers or signed(body))


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["file"])
async def test_every_recorded_webhook_is_accepted_and_understood(
    entry: dict[str, Any], receiver: httpx.AsyncClient, published: Published
):
    body = (FOLDER / entry["file"]).read_bytes()

    answer = await post(receiver, body, signed(body, message_id=entry["headers"]["webhook-id"]))

    assert answer.status_code == 202
    [event] = published.events()
    assert type(event) is EXPECTED[entry["file"][:2]]
    assert event.training_id == json.loads(body)["id"]


async def test_the_trainers_own_version_is_never_the_output(receiver: httpx.AsyncClient, published: Published):
    body = b'{"id":"abc","status":"succeeded","model":"a/trainer","version":"%s","output":null}' % (b"e" * 64)

    await post(receiver, body)

    [event] = published.events()
    assert isinstance(event, TrainingSucceeded)
    assert event.output is None
    assert (event.trainer, event.trainer_version) == ("a/trainer", "e" * 64)


async def test_aborted_is_a_cancel_with_its_own_reason(receiver: httpx.AsyncClient, published: Published):
    await post(receiver, b'{"id":"abc","status":"aborted"}')

    [event] = published.events()
    assert isinstance(event, TrainingCanceled)
    assert event.reason == "aborted"


async def test_the_same_webhook_twice_is_the_same_fact(receiver: httpx.AsyncClient, published: Published):
    for at in (NOW, NOW + 30):
        await post(receiver, GOOD, signed(GOOD, at=at))

    first, second = (message.headers["ce-id"] for message in published.messages)
    assert first == second


async def test_an_unknown_status_is_dead_lettered_whole(receiver: httpx.AsyncClient, published: Published):
    body = b'{"id":"abc","status":"queued","output":{"version":"x"}}'

    answer = await post(receiver, body)

    assert answer.status_code == 202
    [letter] = published.messages
    assert (letter.exchange, letter.routing_key, letter.body) == ("modelswap.dead", RECEIVER, body)
    assert letter.headers["x-dead-error"] == "unknown_status"
    assert "'queued'" in str(letter.headers["x-dead-text"])


ALICE = Claim(UUID(int=7), ModelName("acme", "u-42"), 1000, "alice")
BOB = Claim(UUID(int=8), ModelName("acme", "u-42"), 2000, "bob")


def address_of(claim: Claim) -> str:
    return webhook_url("", claim, ("ref-secret",))


def succeeded(webhook: str | None, **fields: Any) -> bytes:
    return json.dumps({"id": "abc", "status": "succeeded", "webhook": webhook, **fields}).encode()


async def test_the_address_that_the_body_names_counts(receiver: httpx.AsyncClient, published: Published):
    body = succeeded("https://hooks.example.com" + address_of(BOB))

    await post(receiver, body, path=address_of(BOB))
    await post(receiver, body, path="/webhooks/replicate")

    for event in published.events():
        assert isinstance(event, TrainingSucceeded)
        assert (event.ref, event.destination, event.called_ref) == (BOB.ref, BOB.destination, None)
        assert event.user_id == "bob"


@pytest.mark.parametrize("status", ["starting", "processing", "succeeded", "failed", "canceled", "thinking"])
async def test_a_webhook_of_another_training_is_refused(status: str, receiver: httpx.AsyncClient, published: Published):
    before = counted(telemetry.webhooks)["foreign_ref",]
    body = succeeded("https://hooks.example.com" + address_of(BOB), status=status, logs="x")

    with capture_logs() as logs:
        answer = await post(receiver, body, path=address_of(ALICE))

    assert (answer.status_code, answer.json()["title"]) == (401, "foreign-ref")
    assert [(line["event"], line["training_id"]) for line in logs] == [("webhook.refused", json.loads(body)["id"])]
    assert counted(telemetry.webhooks)["foreign_ref",] == before + 1
    assert published.messages == []


@pytest.mark.parametrize("webhook", [None, "https://example.com/hook"])
async def test_an_address_that_only_was_called_proves_nothing(
    webhook: str | None, receiver: httpx.AsyncClient, published: Published
):
    await post(receiver, succeeded(webhook), path=address_of(ALICE))

    [event] = published.events()
    assert isinstance(event, TrainingSucceeded)
    assert (event.ref, event.destination, event.called_ref) == (None, None, ALICE.ref)
    assert event.user_id is None


async def test_steps_are_not_taken_from_the_called_address(receiver: httpx.AsyncClient, published: Published):
    logs = "train: 50%|█████     | 500/1000 [00:10<00:10]\n"

    await post(receiver, succeeded(None, status="processing", logs=logs), path=address_of(BOB))
    await post(receiver, succeeded(None, status="processing", logs=logs), path="/webhooks/replicate")

    called, plain = (event for event in published.events() if isinstance(event, TrainingProgressed))
    assert (called.step, called.total, called.fraction) == (plain.step, plain.total, plain.fraction)


async def test_a_foreign_token_is_no_error_and_proves_nothing(receiver: httpx.AsyncClient, published: Published):
    path = webhook_url("", Claim(UUID(int=7), ModelName("acme", "u-42"), None), ("somebody-elses",))

    answer = await post(receiver, GOOD, path=path)

    [event] = published.events()
    assert answer.status_code == 202
    assert isinstance(event, TrainingSucceeded)
    assert (event.ref, event.destination) == (None, None)


@pytest.mark.parametrize("logs", ["null", '""', '"x"', '["x","y"]', "7", '{"a":1}', '"\\u0000\\ud83d"'])
async def test_no_shape_of_the_logs_sinks_a_completion(logs: str, receiver: httpx.AsyncClient, published: Published):
    body = b'{"id":"abc","status":"succeeded","started_at":"2022-04-26T20:00:84Z","logs":%s}' % logs.encode()

    answer = await post(receiver, body)

    assert answer.status_code == 202
    assert [type(event) for event in published.events()] == [TrainingSucceeded]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"abc"',
        b"{}",
        b'{"id":"abc"}',
        b'{"status":"succeeded"}',
        b'{"id":null,"status":"succeeded"}',
        b'{"id":"../x","status":"succeeded"}',
        b'{"id":"a\\u0000b","status":"succeeded"}',
        b'{"id":"abc","status":"succe\\u0000eded"}',
        b'{"id":"abc","status":"succeeded","output":{"version":"acme/u:\\u0000"}}',
        b'{"id":"abc","status":"succeeded","output":"\\ud800"}',
        b'{"id":"abc","status":"succeeded"}\x00',
        b'{"id":"abc","status":"\xff\xfe"}',
        b'{"id":"abc","status":"succeeded","output":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"id":"abc","status":"succeeded","output":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    ],
    ids=lambda body: body[:60].decode("utf-8", "replace"),
)
async def test_what_is_no_training_is_refused_and_publishes_nothing(
    body: bytes, receiver: httpx.AsyncClient, published: Published
):
    answer = await post(receiver, body)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert published.messages == []


async def test_an_output_too_large_to_carry_is_left_out_and_said_so(receiver: httpx.AsyncClient, published: Published):
    body = json.dumps({"id": "abc", "status": "succeeded", "output": "x" * 1_000_000}).encode()

    await post(receiver, body)

    [event] = published.events()
    assert isinstance(event, TrainingSucceeded)
    assert (event.output, event.output_omitted_bytes) == (None, 1_000_002)


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = f"a={'x' * 254},b={'y' * 253}"


async def test_valid_trace_context_travels_with_the_event(receiver: httpx.AsyncClient, published: Published):
    await post(receiver, GOOD, {**signed(GOOD), "traceparent": PARENT, "tracestate": STATE})

    [message] = published.messages
    assert (message.headers["traceparent"], message.headers["tracestate"]) == (PARENT, STATE)


@pytest.mark.parametrize("size", [513, 130_639, 130_711, 140_000])
async def test_a_giant_tracestate_is_dropped_and_its_webhook_taken(
    size: int, receiver: httpx.AsyncClient, published: Published
):
    answer = await post(receiver, GOOD, {**signed(GOOD), "traceparent": PARENT, "tracestate": f"b={'b' * (size - 2)}"})

    [message] = published.messages
    assert answer.status_code == 202
    assert message.headers["traceparent"] == PARENT
    assert "tracestate" not in message.headers


@pytest.mark.parametrize(
    "trace",
    [
        [("tracestate", "a=1")],
        [("traceparent", "00-1-2-01"), ("tracestate", "a=1")],
        [("traceparent", PARENT), ("traceparent", PARENT)],
        [("traceparent", "x" * 140_000), ("tracestate", "x" * 140_000)],
    ],
)
async def test_a_malformed_trace_is_dropped_and_its_webhook_taken(
    trace: list[tuple[str, str]], receiver: httpx.AsyncClient, published: Published
):
    answer = await receiver.post("/webhooks/replicate", content=GOOD, headers=[*signed(GOOD).items(), *trace])

    [message] = published.messages
    assert answer.status_code == 202
    assert not {"traceparent", "tracestate"} & message.headers.keys()


async def test_a_webhook_that_no_event_can_carry_is_kept_whole(receiver: httpx.AsyncClient, published: Published):
    published.broken, published.takes = Unpublishable("it does not fit"), DEAD_EXCHANGE

    answer = await post(receiver, GOOD)

    [letter] = published.messages
    assert answer.status_code == 202
    assert (letter.routing_key, letter.body) == (RECEIVER, GOOD)
    assert letter.headers["x-dead-error"] == "message_too_large"


async def test_an_unpublishable_webhook_is_answered_413(receiver: httpx.AsyncClient, published: Published):
    published.broken = Unpublishable("it does not fit")

    with capture_logs() as logs:
        answer = await post(receiver, GOOD)

    assert answer.status_code == 413
    assert "retry-after" not in answer.headers
    assert [(line["event"], line.get("training_id")) for line in logs] == [
        ("webhook.parked", json.loads(GOOD)["id"]),
        ("webhook.lost", json.loads(GOOD)["id"]),
        ("webhook.refused", json.loads(GOOD)["id"]),
    ]


UNSIGNED = {
    "no headers": {"content-type": "application/json"},
    "another secret": signed(GOOD, secret=OTHER_SECRET),
    "re-serialised body": signed(json.dumps(json.loads(GOOD)).encode()),
    "too old": signed(GOOD, at=NOW - 301),
    "from the future": signed(GOOD, at=NOW + 301),
    "another id": {**signed(GOOD), "webhook-id": "msg_2"},
    "another timestamp": {**signed(GOOD), "webhook-timestamp": str(NOW + 1)},
    "digits of another script": {**signed(GOOD), "webhook-timestamp": "1_790_000_000"},
    "unknown version": {**signed(GOOD), "webhook-signature": signed(GOOD)["webhook-signature"].replace("v1,", "v1a,")},
    "rubbish": {**signed(GOOD), "webhook-signature": "v1,===="},
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED.keys())
async def test_what_nobody_signed_is_refused_and_publishes_nothing(
    headers: dict[str, str], receiver: httpx.AsyncClient, published: Published
):
    answer = await post(receiver, GOOD, headers)

    assert answer.status_code == 401
    assert published.messages == []


async def test_a_header_given_twice_is_refused(receiver: httpx.AsyncClient, published: Published):
    headers = [*signed(GOOD).items(), ("webhook-id", "msg_2")]

    answer = await receiver.post("/webhooks/replicate", content=GOOD, headers=headers)

    assert answer.status_code == 401
    assert published.messages == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(*, chunked: bool, receiver: httpx.AsyncClient, published: Published):
    body = b" " * (LIMIT + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    answer = await receiver.post("/webhooks/replicate", content=chunks() if chunked else body, headers=signed(GOOD))

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert published.messages == []


@pytest.mark.parametrize("why", [Unconfirmed("RabbitMQ gave no receipt"), TopologyMismatch("of another kind")])
async def test_without_a_confirm_the_webhook_is_answered_503(
    receiver: httpx.AsyncClient, published: Published, why: Exception
):
    published.broken = why

    answer = await post(receiver, GOOD)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


async def test_every_answer_is_counted_from_the_beginning(published: Published):
    telemetry.webhooks.clear()
    async with client_of(published, Secrets((SECRET,), None, lambda: 0.0)) as receiver:
        at_first, timed = counted(telemetry.webhooks), observed(telemetry.webhook_seconds)[()]
        for headers in ({}, *UNSIGNED.values()):
            await post(receiver, GOOD, headers)
        await receiver.post("/webhooks/replicate")
        for body in (GOOD, b"{}", b" " * (LIMIT + 1)):
            await post(receiver, body)
        await post(receiver, succeeded("https://hooks.example.com" + address_of(BOB)), path=address_of(ALICE))
        for broken in (Unconfirmed("RabbitMQ gave no receipt"), Unpublishable("it does not fit"), KeyError("a bug")):
            published.broken = broken
            await post(receiver, GOOD)

    at_last = counted(telemetry.webhooks)
    assert set(at_first.values()) == {0}
    assert at_last.keys() == at_first.keys()
    assert all(at_last.values())
    assert observed(telemetry.webhook_seconds)[()].times == timed.times + sum(at_last.values())


async def test_another_method_or_path_is_no_webhook(receiver: httpx.AsyncClient):
    assert (await receiver.get("/webhooks/replicate")).status_code == 405
    assert (await receiver.post("/webhooks/other")).status_code == 404


async def test_the_secret_is_fetched_once_when_none_is_configured(published: Published):
    account = Account()
    async with client_of(published, Secrets((), account, lambda: 0.0)) as receiver:
        answers = [await post(receiver, GOOD) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202] * 3
    assert account.asked == 1


async def test_a_rotated_secret_is_fetched_again_at_most_once_a_minute(published: Published):
    account = Account()
    time = [0.0]
    async with client_of(published, Secrets((), account, lambda: time[0])) as receiver:
        await post(receiver, GOOD)
        account.secret = OTHER_SECRET
        rotated = signed(GOOD, secret=OTHER_SECRET)
        soon = await post(receiver, GOOD, rotated)
        time[0] = 61.0
        later = await post(receiver, GOOD, rotated)
        forged = [await post(receiver, GOOD, signed(GOOD, secret=SECRET)) for _ in range(5)]

    assert (soon.status_code, later.status_code) == (401, 202)
    assert [answer.status_code for answer in forged] == [401] * 5
    assert account.asked == 2


#: Refused before any signature is compared, so a rotated secret is not the reason.
UNCOMPARED = ["no headers", "too old", "from the future", "digits of another script"]


@pytest.mark.parametrize("why", UNCOMPARED)
async def test_a_stale_or_missing_signature_fetches_no_secret(why: str, published: Published):
    account, time = Account(), [0.0]
    async with client_of(published, Secrets((), account, lambda: time[0])) as receiver:
        await post(receiver, GOOD)
        time[0] = 61.0
        answer = await post(receiver, GOOD, UNSIGNED[why])

    assert answer.status_code == 401
    assert account.asked == 1


async def test_without_a_secret_webhooks_are_answered_503(published: Published):
    account = Account(down=True)
    async with client_of(published, Secrets((), account, lambda: 0.0)) as receiver:
        answer = await post(receiver, GOOD)

    assert answer.status_code == 503
    assert published.messages == []


async def test_webhooks_do_not_wait_for_each_others_fetch_of_the_secret(published: Published):
    """Replicate does not answer for two seconds, which pass on the clock."""
    time = [0.0]

    class Hanging(Account):
        async def webhook_secret(self) -> str:
            self.asked += 1
            await asyncio.sleep(0)
            time[0] += 2
            raise DependencyDown("Replicate is away")

    account = Hanging()
    async with client_of(published, Secrets((), account, lambda: time[0])) as receiver:
        answers = await asyncio.gather(*(post(receiver, GOOD) for _ in range(5)))

    assert [answer.status_code for answer in answers] == [503] * 5
    assert account.asked == 1


async def test_several_secrets_let_one_be_rotated_without_a_gap(published: Published):
    async with client_of(published, Secrets((OTHER_SECRET, SECRET), None, lambda: 0.0)) as receiver:
        answers = [await post(receiver, GOOD, signed(GOOD, secret=secret)) for secret in (SECRET, OTHER_SECRET)]

    assert [answer.status_code for answer in answers] == [202, 202]


async def test_a_sender_who_hangs_up_in_the_middle_is_no_error_of_ours(published: Published):
    said: list[Message] = []
    incoming: Iterator[Message] = iter(
        [{"type": "http.request", "body": GOOD, "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/webhooks/replicate", "headers": [], "query_string": b""}
    await app_of(published, Secrets((SECRET,), None, lambda: 0.0))(scope, receive, send)

    assert said[0]["status"] == 408
    assert published.messages == []
