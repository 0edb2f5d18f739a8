"""What would become of a message at the extractor? Its API over a Replicate in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from services.extractor.api import create_api
from services.extractor.handler import Extractor
from services.extractor.picture_process import find_flaw_apart
from services.extractor.verify import NOT_RUN, Gate
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import DependencyDown
from shared.contract.events import Event, ExtractionRequested, ModelReady, TrainingStarted, TrainingSucceeded
from shared.contract.identity import ModelName, ModelRef
from shared.contract.preview import Answer, Message
from shared.replicate.errors import OperatorNeeded
from shared.runtime.clock import now
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.middleware import MAX_BODY_BYTES
from tests.described import DescribedTransport
from tests.fakes import FakeReplicate, Policy

TOKEN: Final = "token-of-ops"
DESTINATION: Final = ModelName("acme", "u-42")
MODEL: Final = ModelRef("acme", "u-42", "9" * 64)


@dataclass
class Extraction:
    """An extractor that pays for runs, and one beside it that looks."""

    replicate: FakeReplicate = field(default_factory=FakeReplicate)

    def __post_init__(self) -> None:
        self.replicate.add_version(MODEL)
        self.replicate.will_say = [{"status": "succeeded", "output": "https://replicate.delivery/out-0.png"}]
        gate = Gate(self.replicate, Policy(), find_flaw=find_flaw_apart)
        self.paying = Extractor(self.replicate, gate.verify, monotonic=lambda: 0)
        self.looking = Extractor(self.replicate, gate.check_without_run, monotonic=lambda: 0)

    @contextlib.asynccontextmanager
    async def ops(self, tokens: Sequence[str] = (TOKEN,), **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            transport=DescribedTransport(create_api(self.looking, api_tokens=tokens), below=""),
            base_url="http://extractor",
            headers=headers or {"Authorization": f"Bearer {TOKEN}"},
        ) as client:
            yield client

    async def preview(self, message: Message) -> Answer:
        async with self.ops() as client:
            answer = await client.post("/preview", json=message.model_dump(mode="json"))
        assert answer.status_code == 200, answer.text
        return Answer.model_validate_json(answer.content)


@pytest.fixture
def extraction() -> Extraction:
    return Extraction()


def enveloped(event: Event) -> Envelope:
    return wrap(event, source="test", now=now())


def succeeded(**fields: Any) -> Envelope:
    known = {"training_id": "t1", "destination": DESTINATION, "output": {"version": str(MODEL)}}
    return enveloped(TrainingSucceeded(**{**known, **fields}))


def checks(answer: Answer) -> tuple[str, ...]:
    (message,) = answer.messages
    event = message.decode().event
    assert isinstance(event, ModelReady)
    return event.evidence.checks


async def test_a_preview_returns_the_follow_up_and_costs_nothing(extraction):
    answer = await extraction.preview(Message.of(succeeded()))

    assert answer.refusal is None
    assert checks(answer) == ("exists", "schema", NOT_RUN)
    assert extraction.replicate.inputs == []


async def test_a_preview_knows_what_a_delivery_has_paid_for(extraction):
    await extraction.paying.handle(succeeded())

    answer = await extraction.preview(Message.of(succeeded()))

    assert checks(answer) == ("exists", "schema", "predict")
    assert len(extraction.replicate.inputs) == 1


async def test_a_preview_leaves_the_run_to_the_delivery(extraction):
    await extraction.preview(Message.of(succeeded()))

    (event,) = await extraction.paying.handle(succeeded())

    assert event.evidence.checks == ("exists", "schema", "predict")


async def test_what_follows_says_of_what(extraction):
    cause = succeeded()

    (message,) = (await extraction.preview(Message.of(cause))).messages

    follows = message.decode()
    assert (follows.causation_id, follows.source) == (cause.id, "/modelswap/extractor")


async def test_a_request_is_previewed_as_well(extraction):
    extraction.replicate.add_training("t1", output={"version": str(MODEL)})
    request = ExtractionRequested(training_id="t1", ref=UUID(int=1), destination=DESTINATION, request_id=UUID(int=2))

    assert checks(await extraction.preview(Message.of(enveloped(request))))


@pytest.mark.parametrize(
    ("message", "code", "is_transient"),
    [
        (Message.of(succeeded(output={"version": f"mallory/u-42:{'9' * 64}"})), "destination_mismatch", False),
        (Message.of(succeeded(output=None)), "no_version", False),
        (Message.of(succeeded(output={"version": "8" * 64})), "version_not_there_yet", True),
        (Message.of(enveloped(TrainingStarted(training_id="t1"))), "unexpected_event", False),
        (Message.of(succeeded()).model_copy(update={"body": b"\xff"}), "malformed", False),
        (Message.of(succeeded()).model_copy(update={"headers": {}}), "malformed", False),
        (Message.of(succeeded()).model_copy(update={"headers": {"ce-type": "x"}}), "unknown_event", False),
    ],
)
async def test_a_preview_answers_how_a_delivery_would_fail(extraction, message, code, is_transient):
    answer = await extraction.preview(message)

    assert answer.messages == ()
    assert answer.refusal is not None
    assert (answer.refusal.code, answer.refusal.is_transient) == (code, is_transient)
    assert answer.refusal.text


@pytest.mark.parametrize("error", [DependencyDown("503", code="replicate_down"), OperatorNeeded("402")])
async def test_a_preview_answers_what_the_extractor_would_wait_for(extraction, error):
    extraction.replicate.next_error = error

    refusal = (await extraction.preview(Message.of(succeeded()))).refusal

    assert refusal is not None
    assert (refusal.code, refusal.kind, refusal.is_transient) == (error.code, type(error).__name__, True)


@pytest.mark.parametrize(
    "headers", [{"X": "none"}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}]
)
async def test_nobody_asks_without_a_token(extraction, headers):
    async with extraction.ops(**headers) as client:
        answer = await client.post("/preview", json=Message.of(succeeded()).model_dump(mode="json"))

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


async def test_without_configured_tokens_every_request_is_refused(extraction):
    async with extraction.ops(tokens=()) as client:
        answer = await client.post("/preview", json={})
        health = await client.get("/livez")

    assert answer.status_code == 403
    assert "MODELSWAP_API_TOKENS" in answer.json()["detail"]
    assert health.status_code == 200


async def test_a_request_that_holds_no_message_makes_no_sense(extraction):
    async with extraction.ops() as client:
        answers = [
            await client.post("/preview", content=content)
            for content in (b"", b"{", b"[]", b'{"headers": {}}', b'{"headers": {}, "body": "%"}')
        ]

    assert {answer.status_code for answer in answers} == {422}


async def test_a_request_is_read_up_to_a_limit(extraction):
    async with extraction.ops() as client:
        answer = await client.post("/preview", content=b"[" + b" " * MAX_BODY_BYTES)

    assert answer.status_code == 413


async def test_a_bug_is_answered_as_the_deliverys_failure():
    class Broken:
        async def handle(self, _: Envelope) -> Sequence[Event]:
            raise KeyError("version")

    app = create_app(create_api(Broken(), api_tokens=(TOKEN,)), reporter({}), below="")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://e", headers=headers) as client:
        answer = await client.post("/preview", json=Message.of(succeeded()).model_dump(mode="json"))

    refusal = Answer.model_validate_json(answer.content).refusal
    assert refusal is not None
    assert (refusal.code, refusal.kind, refusal.is_transient) == ("unexpected", "KeyError", True)
