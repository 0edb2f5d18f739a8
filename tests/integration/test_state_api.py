"""What does the product see? Its API over a real Postgres and a Replicate to order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

import httpx
import pytest
from pydantic import JsonValue
from structlog.testing import capture_logs

from services.state.api import WebhookAddress, create_api
from services.state.requests import RegisterTraining, RollBack, StartTraining
from services.state.store import Store
from services.state.store.outbox import StoredEvent
from services.state.streams import Watcher
from services.state.views import ModelView, SwapView
from shared.contract.errors import DependencyDown
from shared.contract.events import TrainingCanceled, TrainingEvent, TrainingFailed, TrainingSucceeded
from shared.contract.identity import ModelName, ModelRef
from shared.contract.preview import Answer
from shared.contract.preview import Message as EventMessage
from shared.replicate.errors import BadAnswer, NotThere, Refused, Unknown
from shared.replicate.training import Training
from shared.replicate.webhook_url import Claim, read_claim
from shared.runtime.middleware import MAX_BODY_BYTES
from tests.described import DescribedTransport
from tests.state import (
    DESTINATION,
    Wire,
    decoded,
    failed,
    model_of,
    opened_store,
    progressed,
    ready,
    registration,
    replayed,
    started,
    succeeded,
)

TOKEN: Final = "token-of-the-product"
OLD_TOKEN: Final = "the-token-before"
REF_SECRETS: Final = ("a secret that signs our addresses",)
TRAINER: Final = f"replicate/fast-flux-trainer:{'b' * 64}"

START: Final[Mapping[str, Any]] = {
    "user_id": "ada",
    "destination": str(DESTINATION),
    "trainer": TRAINER,
    "input": {"input_images": "https://example.com/ada.zip", "steps": 700},
    "trigger_word": "TOK",
}
REGISTER: Final[Mapping[str, Any]] = {"user_id": "ada", "destination": str(DESTINATION)}


@dataclass
class Replicate:
    """Starts every training, named t1, t2, …, unless it is told to fail."""

    error: Exception | None = None
    #: What it says of trainings that it was not asked to start here; else it knows none.
    trainings: dict[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    meanwhile: Callable[[], None] = lambda: None
    asked: list[tuple[ModelRef, ModelName, Mapping[str, JsonValue], str, Sequence[str]]] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)

    async def create_training(
        self,
        trainer: ModelRef,
        destination: ModelName,
        inputs: Mapping[str, JsonValue],
        webhook: str,
        events: Sequence[str],
    ) -> Training:
        self.asked.append((trainer, destination, inputs, webhook, events))
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return Training.model_validate({"id": f"t{len(self.asked)}", "status": "starting"})

    async def get_training(self, training_id: str) -> Training:
        if self.error is not None:
            raise self.error
        if training_id not in self.trainings:
            raise NotThere(f"get training {training_id}: 404")
        return Training.model_validate({"id": training_id, **self.trainings[training_id]})

    async def cancel_training(self, training_id: str) -> Training:
        self.canceled.append(training_id)
        if self.error is not None:
            raise self.error
        return Training.model_validate({"id": training_id, "status": "canceled"})


def application(store: Any, replicate: Replicate, ask_later: Callable[[str], None] | None = None) -> DescribedTransport:
    api = create_api(
        store,
        replicate,
        Watcher(store, asyncio.Event(), limit=1),
        webhook=WebhookAddress("https://hooks.example.com", REF_SECRETS),
        api_tokens=(TOKEN, OLD_TOKEN, "operator/ben:bens-secret", "reader:readers-secret", "service/ops:ops-secret"),
        ask_later=ask_later,
    )
    return DescribedTransport(api)


@contextlib.asynccontextmanager
async def product(
    store: Any, replicate: Replicate, ask_later: Callable[[str], None] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """The product, which asks the API."""
    async with httpx.AsyncClient(
        transport=application(store, replicate, ask_later),
        base_url="http://state/v1",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


@pytest.fixture
def replicate() -> Replicate:
    return Replicate()


@pytest.fixture
async def client(store: Store, replicate: Replicate) -> AsyncIterator[httpx.AsyncClient]:
    async with product(store, replicate) as client:
        yield client


def problem(answer: httpx.Response, status: int, kind: str) -> Any:
    """The problem that *answer* is, which must be of this status and kind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["type"], body["status"]) == (f"urn:modelswap:problem:{kind}", status)
    assert body["title"]
    assert body["detail"]
    return body


# Starting


async def test_a_training_is_written_down_and_started(client, replicate, store):
    answer = await client.post("/trainings", json=START)

    assert answer.status_code == 201
    body = answer.json()
    assert (body["training_id"], body["user_id"], body["generation"], body["stage"]) == ("t1", "ada", 1, "requested")
    assert (body["destination"], body["trainer"], body["total_steps"]) == (str(DESTINATION), TRAINER, 700)
    assert (body["progress"], body["reference"], body["current"]) == (0, None, False)
    assert "webhook_url" not in body
    record = await store.find_training("t1")
    assert record is not None
    assert str(record.ref) == body["ref"]


async def test_a_started_training_has_a_signed_webhook_address(client, replicate):
    body = (await client.post("/trainings", json=START)).json()

    ((trainer, destination, training_input, webhook, events),) = replicate.asked
    assert (str(trainer), destination, training_input) == (TRAINER, DESTINATION, START["input"])
    assert events == ("start", "output", "logs", "completed")
    assert webhook.startswith("https://hooks.example.com/webhooks/replicate?ref=")
    (token,) = parse_qs(urlsplit(webhook).query)["ref"]
    assert read_claim(token, REF_SECRETS) == Claim(UUID(body["ref"]), DESTINATION, 700, body["user_id"])


async def test_the_current_model_stays_while_a_new_one_is_trained(client, store):
    await store.adopt(registration("ada", "t0"))
    await store.apply([ready("t0")])

    before = (await client.get("/users/ada/model")).json()
    await client.post("/trainings", json=START)

    assert (await client.get("/users/ada/model")).json() == before


@pytest.mark.parametrize(
    "refusal",
    [Refused("train: 400 no such input", status=400), NotThere("train: 404 The destination does not exist")],
)
async def test_a_start_refused_by_replicate_fails_with_its_reason(client, replicate, store, refusal):
    replicate.error = refusal

    answer = await client.post("/trainings", json=START)

    assert problem(answer, 422, "start-refused")["detail"] == str(refusal)
    (training,) = (await client.get("/users/ada/trainings")).json()["items"]
    assert (training["stage"], training["failure"]) == (
        "failed",
        {"code": "start_refused", "reason": str(refusal)},
    )


async def test_after_a_lost_answer_the_first_webhook_brings_the_id(client, replicate, store):
    replicate.error = Unknown("no answer; it may have started")

    answer = await client.post("/trainings", json=START)
    ref = answer.json()["ref"]
    await store.apply([started("t77", ref=UUID(ref))])

    assert (answer.status_code, answer.json()["training_id"]) == (202, None)
    assert (await client.get(f"/trainings/{ref}")).json()["training_id"] == "t77"


async def test_the_key_of_a_never_started_training_starts_another(client, replicate):
    key = {"Idempotency-Key": "k"}
    replicate.error = Unknown("no answer; it may have started")
    lost = (await client.post("/trainings", json=START, headers=key)).json()
    replicate.error = None

    answer = await client.post(f"/trainings/{lost['ref']}/never-started", json={"reason": "Replicate lists none"})
    again = await client.post("/trainings", json=START, headers=key)

    failure = {"code": "not_started", "reason": "Replicate lists none"}
    assert (answer.status_code, answer.json()["stage"], answer.json()["failure"]) == (200, "failed", failure)
    assert (again.status_code, again.json()["training_id"], again.json()["generation"]) == (201, "t2", 2)


async def test_a_training_with_an_id_can_not_be_marked_never_started(client):
    ref = (await client.post("/trainings", json=START)).json()["ref"]

    answer = await client.post(f"/trainings/{ref}/never-started", json={"reason": "Replicate lists none"})

    assert (answer.status_code, answer.json()["stage"], answer.json()["failure"]) == (200, "requested", None)


async def test_a_training_marked_never_started_resumes_when_it_appears(client, replicate, store):
    replicate.error = Unknown("no answer; it may have started")
    ref = (await client.post("/trainings", json=START)).json()["ref"]
    await client.post(f"/trainings/{ref}/never-started", json={"reason": "Replicate lists none"})

    await store.apply([started("t1", ref=UUID(ref))])

    shown = (await client.get("/trainings/t1")).json()
    assert (shown["ref"], shown["stage"], shown["failure"]) == (ref, "running", None)


async def test_during_an_outage_of_replicate_a_start_can_be_repeated(client, replicate):
    key = {"Idempotency-Key": "once"}
    replicate.error = DependencyDown("away", retry_after_seconds=7.2)

    answer = await client.post("/trainings", json=START, headers=key)
    replicate.error = None
    again = await client.post("/trainings", json=START, headers=key)

    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "8"
    assert (again.status_code, again.json()["generation"]) == (201, 2)
    stages = [training["stage"] for training in (await client.get("/trainings")).json()["items"]]
    assert stages == ["requested", "failed"]


async def test_a_start_succeeds_even_if_its_id_can_not_be_stored(database_url):
    async with (
        Wire(database_url) as wire,
        opened_store(wire.url) as store,
        product(store, Replicate(meanwhile=wire.refuse)) as client,
    ):
        answer = await client.post("/trainings", json=START)
        wire.restore()
        await store.apply([started("t1", ref=UUID(answer.json()["ref"]))])
        training = (await client.get("/trainings/t1")).json()

    assert (answer.status_code, answer.json()["training_id"]) == (201, "t1")
    assert training["stage"] == "running"


async def test_a_registration_without_start_returns_the_webhook_url(client, replicate):
    answer = await client.post("/trainings", json={**REGISTER, "start": False, "total_steps": 900})

    assert answer.status_code == 201
    (token,) = parse_qs(urlsplit(answer.json()["webhook_url"]).query)["ref"]
    assert read_claim(token, REF_SECRETS) == Claim(UUID(answer.json()["ref"]), DESTINATION, 900, "ada")
    assert replicate.asked == []


# The same request again


@pytest.mark.parametrize("body", [START, {**REGISTER, "start": False}], ids=["started by us", "by the product"])
async def test_the_same_request_with_the_same_key_is_answered_the_same(client, replicate, body):
    answers = [
        await client.post("/trainings", json=order, headers={"Idempotency-Key": "once"})
        for order in (body, dict(reversed(body.items())))
    ]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len(replicate.asked) == (0 if body.get("start") is False else 1)


async def test_many_at_once_with_the_same_key_start_one_training(client, replicate):
    answers = await asyncio.gather(
        *(client.post("/trainings", json=START, headers={"Idempotency-Key": "once"}) for _ in range(8))
    )

    assert {answer.status_code for answer in answers} <= {201, 202}
    assert len({answer.json()["ref"] for answer in answers}) == 1
    assert len(replicate.asked) == 1


async def test_a_refusal_too_is_answered_the_same(client, replicate):
    replicate.error = Refused("train: 400 no such input", status=400)

    answers = [await client.post("/trainings", json=START, headers={"Idempotency-Key": "once"}) for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert len(replicate.asked) == 1


async def test_the_same_key_with_another_request_is_a_mistake(client):
    await client.post("/trainings", json=START, headers={"Idempotency-Key": "once"})

    answer = await client.post("/trainings", json={**START, "user_id": "eve"}, headers={"Idempotency-Key": "once"})

    problem(answer, 422, "idempotency-key-reused")


async def test_without_a_key_each_request_is_a_training_of_its_own(client):
    answers = [await client.post("/trainings", json=START) for _ in range(2)]

    assert [answer.json()["generation"] for answer in answers] == [1, 2]


async def test_a_training_that_runs_already_is_registered_once(client):
    answers = [await client.put("/trainings/t1", json=REGISTER) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "eve"},
        {"destination": "acme/eve"},
        {"trainer": f"acme/trainer:{'b' * 64}"},
        {"trigger_word": "OTHER"},
    ],
    ids=lambda other: str(*other),
)
async def test_a_training_is_not_registered_as_something_else(client, other):
    full = {**REGISTER, "trainer": f"acme/trainer:{'a' * 64}", "trigger_word": "TOK"}
    await client.put("/trainings/t1", json=full)

    answer = await client.put("/trainings/t1", json={**full, **other})

    assert str(*other) in problem(answer, 409, "registered-otherwise")["detail"]


async def test_what_a_second_registration_leaves_open_stays(client):
    first = await client.put("/trainings/t1", json={**REGISTER, "trigger_word": "TOK"})

    second = await client.put("/trainings/t1", json=REGISTER)

    assert (second.status_code, second.json()["trigger_word"]) == (200, first.json()["trigger_word"])


async def published(store: Store) -> list[TrainingEvent]:
    """What is to be published of trainings."""
    events: list[TrainingEvent] = []

    async def publish(stored: Sequence[StoredEvent]) -> Sequence[None]:
        events.extend(event for each in stored if isinstance(event := decoded(each).event, TrainingEvent))
        return [None] * len(stored)

    await store.relay(publish, limit=100)
    return events


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"status": "succeeded", "output": "x"}, [TrainingSucceeded]),
        ({"status": "failed", "error": "out of memory"}, [TrainingFailed]),
        ({"status": "aborted"}, [TrainingCanceled]),
        ({"status": "processing", "logs": "x"}, []),
        ({"status": "a new one"}, []),
    ],
    ids=["succeeded", "failed", "aborted", "processing", "a new one"],
)
async def test_what_ended_before_it_was_registered_is_told(said, expected, store, replicate):
    replicate.trainings["t1"] = said
    later: list[str] = []
    async with product(store, replicate, later.append) as client:
        answers = [await client.put("/trainings/t1", json=REGISTER) for _ in range(2)]

    events = await published(store)
    assert [answer.status_code for answer in answers] == [201, 200]
    assert [type(event) for event in events] == expected
    assert {(event.training_id, str(event.ref)) for event in events} <= {("t1", answers[0].json()["ref"])}
    assert later == []


async def test_what_replicate_does_not_know_is_not_registered(store, replicate):
    async with product(store, replicate, pytest.fail) as client:
        answer = await client.put("/trainings/t1", json=REGISTER)
        found = await client.get("/trainings/t1")

    problem(answer, 404, "no-such-training-at-replicate")
    problem(found, 404, "no-training")


@pytest.mark.parametrize(
    "error",
    [DependencyDown("429", retry_after_seconds=9), BadAnswer("no JSON"), TimeoutError()],
    ids=["throttled", "bad answer", "timeout"],
)
async def test_while_replicate_is_away_a_training_is_registered(error, store, replicate):
    replicate.error = error
    later: list[str] = []
    async with product(store, replicate, later.append) as client:
        answers = [await client.put("/trainings/t1", json=REGISTER) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 200]
    assert {answer.json()["stage"] for answer in answers} == {"requested"}
    assert later == ["t1"]


# Looking


async def test_a_training_shows_how_far_it_is(client, store):
    await client.put("/trainings/t1", json=REGISTER)
    seen = []
    for events in ([started("t1")], [succeeded("t1")], [ready("t1")]):
        await store.apply(events)
        body = (await client.get("/trainings/t1")).json()
        seen.append((body["stage"], body["progress"], body["current"]))

    assert [stage for stage, _, _ in seen] == ["running", "verifying", "active"]
    assert [progress for _, progress, _ in seen][1:] == [99, 100]
    assert [current for _, _, current in seen] == [False, False, True]
    assert body["reference"] == str(model_of("t1"))


async def test_what_the_log_says_is_shown_as_such(client, store):
    await client.put("/trainings/t1", json=REGISTER)
    await store.record_progress([progressed("t1", 0.25, step=250, total=1000)])

    body = (await client.get("/trainings/t1")).json()

    assert (body["progress"], body["progress_source"], body["step"], body["total_steps"]) == (25, "log", 250, 1000)


async def test_a_training_that_failed_says_why(client, store):
    await client.put("/trainings/t1", json=REGISTER)
    await store.apply([failed("t1", "out of memory")])

    body = (await client.get("/trainings/t1")).json()

    assert (body["stage"], body["failure"]) == ("failed", {"code": "training_failed", "reason": "out of memory"})


async def test_a_training_is_found_by_our_id_too(client):
    ref = (await client.put("/trainings/t1", json=REGISTER)).json()["ref"]

    assert (await client.get(f"/trainings/{ref}")).json()["training_id"] == "t1"


async def test_a_ref_can_not_be_registered_as_a_training_id(client):
    ref = UUID((await client.post("/trainings", json={**START, "user_id": "bob"})).json()["ref"])

    for spelling in (str(ref), str(ref).upper(), ref.hex, f"{ref.hex}-"):
        problem(await client.put(f"/trainings/{spelling}", json=REGISTER), 422, "invalid")

    assert (await client.get(f"/trainings/{ref}")).json()["user_id"] == "bob"


async def test_a_training_that_nobody_registered_is_not_there(client):
    problem(await client.get("/trainings/t1"), 404, "no-training")


async def test_pages_show_every_training_once_newest_first(client):
    for number in range(7):
        await client.put(f"/trainings/t{number}", json={**REGISTER, "user_id": f"user {number % 2}"})

    async def all_of(path: str, **query: str) -> list[str]:
        names, cursor = [], None
        while True:
            page = (
                await client.get(path, params={"limit": 2, **query, **({"cursor": cursor} if cursor else {})})
            ).json()
            names += [item["training_id"] for item in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                return names

    assert await all_of("/trainings") == ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]
    assert await all_of("/trainings", user_id="user 1") == ["t5", "t3", "t1"]
    assert await all_of("/users/user 0/trainings") == ["t6", "t4", "t2", "t0"]
    assert await all_of("/trainings", stage="running") == []
    assert await all_of("/users/nobody/trainings") == []


# The model


async def test_a_user_without_a_model_has_none(client):
    await client.put("/trainings/t1", json=REGISTER)

    problem(await client.get("/users/ada/model"), 404, "no-model")


def has_null(value: Any) -> bool:
    match value:
        case dict():
            return any(map(has_null, value.values()))
        case list():
            return any(map(has_null, value))
    return value is None or value == ""


async def test_a_model_is_whole_and_never_null(client, store):
    await client.put("/trainings/t1", json={**REGISTER, "trigger_word": "TOK"})
    await store.apply([ready("t1")])

    answer = await client.get("/users/ada/model")

    body = answer.json()
    assert body["reference"] == f"{body['owner']}/{body['name']}:{body['version']}" == str(model_of("t1"))
    assert (body["user_id"], body["training_id"], body["generation"]) == ("ada", "t1", 1)
    assert not has_null(body)
    assert answer.headers["etag"] == '"1"'


async def test_whoever_knows_the_model_already_is_told_so(client, store):
    for name in ("t1", "t2"):
        await client.put(f"/trainings/{name}", json=REGISTER)
    await store.apply([ready("t1")])

    known = {"If-None-Match": (await client.get("/users/ada/model")).headers["etag"]}
    unchanged = await client.get("/users/ada/model", headers=known)
    await store.apply([ready("t2")])
    changed = await client.get("/users/ada/model", headers=known)

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')


async def test_the_history_shows_every_model_that_was_used(client, store):
    for number in (1, 2, 3):
        await client.put(f"/trainings/t{number}", json=REGISTER)
        await store.apply([ready(f"t{number}")])

    first = (await client.get("/users/ada/model/history", params={"limit": 2})).json()
    rest = (await client.get("/users/ada/model/history", params={"cursor": first["next_cursor"]})).json()

    lines = [*first["items"], *rest["items"]]
    assert [(line["generation"], line["reference"]) for line in lines] == [
        (number, str(model_of(f"t{number}"))) for number in (3, 2, 1)
    ]
    assert [line["previous_reference"] for line in lines] == [str(model_of("t2")), str(model_of("t1")), None]
    assert {line["cause"] for line in lines} == {"training"}
    assert rest["next_cursor"] is None


async def test_trainings_are_found_by_many_ids_at_once(client, store):
    for training in ("t1", "t2", "t3"):
        await store.adopt(registration("ada", training))

    found = (await client.post("/training-lookup", json={"training_ids": ["t3", "t9", "t1", "t3"]})).json()

    each = [(await client.get(f"/trainings/{training}")).json() for training in ("t1", "t3")]
    assert sorted(found["items"], key=lambda item: item["training_id"]) == each


async def test_outputs_since_a_time_are_listed_newest_first(client, store):
    for number in range(5):
        await store.adopt(registration(f"user-{number}", f"t{number}"))
    await store.apply([succeeded(f"t{number}") for number in range(4)])
    await store.apply([ready("t3")])
    since = (await client.get("/trainings/t1")).json()["requested_at"]

    first = (await client.get("/outputs", params={"since": since, "limit": 2})).json()
    rest = (await client.get("/outputs", params={"since": since, "cursor": first["next_cursor"]})).json()
    verifying = (await client.get("/outputs", params={"since": since, "stage": "verifying", "limit": 1})).json()

    shown = [*first["items"], *rest["items"]]
    assert [each["training_id"] for each in shown] == ["t3", "t2", "t1"]
    assert [each["reference"] for each in shown] == [str(model_of("t3")), None, None]
    assert shown[1]["output"] == {"version": str(model_of("t2"))}
    assert shown[1]["destination"] == str(DESTINATION)
    assert rest["next_cursor"] is None
    assert [each["training_id"] for each in verifying["items"]] == ["t2"]
    assert verifying["next_cursor"] is not None


async def test_where_nothing_was_requested_since_there_are_no_outputs(client, store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1")])

    page = await client.get("/outputs", params={"since": "2999-01-01T00:00:00Z"})

    assert page.json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("since", ["2026-11-24T12:00:00", "2026-11-24", "0", "1764072000"])
async def test_a_time_that_does_not_say_all_of_itself_makes_no_sense(client, since):
    page = await client.get("/outputs", params={"since": since})

    assert (page.status_code, page.json()["errors"][0]["pointer"]) == (422, "query.since")


@pytest.mark.parametrize(("since", "count"), [("0001-01-01T00:00:00+14:00", 1), ("9999-12-31T23:59:59-14:00", 0)])
async def test_times_outside_utc_are_before_or_after_everything(client, store, since, count):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1")])

    page = await client.get("/outputs", params={"since": since})

    assert len(page.json()["items"]) == count


@pytest.mark.parametrize(
    "user_id",
    ["ada/lovelace", "a/model", "model", "trainings", "a/model/history", "ünï cödé 🎨", "%2e%2e", "a?b#c", "a" * 200],
)
async def test_a_user_id_may_be_any_printable_text(client, store, user_id):
    path = f"/users/{quote(user_id, safe='')}"
    await client.put("/trainings/t1", json={**REGISTER, "user_id": user_id})
    await store.apply([ready("t1")])

    answers = [await client.get(path + end) for end in ("/model", "/model/history", "/trainings")]

    assert answers[0].json()["user_id"] == user_id
    assert [len(answer.json()["items"]) for answer in answers[1:]] == [1, 1]


# What is refused


async def test_whoever_has_no_token_learns_nothing(store, replicate):
    transport = application(store, replicate)
    operations = transport.api.whole()["paths"]
    async with httpx.AsyncClient(transport=transport, base_url="http://state/v1") as stranger:
        wrong = ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", "Bearer wrong", "Bearer tökén"]

        answers = [
            await stranger.request(method, path.format(training_id="t1", user_id="ada"), content=b"{", headers=headers)
            for path, methods in operations.items()
            for method in methods
            for headers in [dict[bytes, bytes](), *({b"Authorization": value.encode()} for value in wrong)]
        ]
        answers.append(await stranger.get("/no-such-route"))

    assert len(answers) == 25 * (1 + len(wrong)) + 1
    for answer in answers:
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", [TOKEN, OLD_TOKEN])
async def test_each_of_the_tokens_opens(client, token):
    answer = await client.get("/trainings", headers={"Authorization": f"bearer {token}"})

    assert answer.status_code == 200


INVALID: Final[list[tuple[str, str, Any, str]]] = [
    ("POST", "/trainings", {}, "#/user_id"),
    ("POST", "/trainings", [], "#"),
    ("POST", "/trainings", {**START, "user_id": ""}, "#/user_id"),
    ("POST", "/trainings", {**START, "user_id": "a" * 201}, "#/user_id"),
    ("POST", "/trainings", {**START, "user_id": "a\x00"}, "#/user_id"),
    ("POST", "/trainings", {**START, "user_id": "a\nb"}, "#/user_id"),
    ("POST", "/trainings", {**START, "user_id": 7}, "#/user_id"),
    ("POST", "/trainings", {**START, "destination": "acme"}, "#/destination"),
    ("POST", "/trainings", {**START, "destination": "acme/../ada"}, "#/destination"),
    ("POST", "/trainings", {**START, "destination": "ACME/ada"}, "#/destination"),
    ("POST", "/trainings", {**START, "trainer": "replicate/trainer"}, "#/trainer"),
    ("POST", "/trainings", {**START, "trainer": None}, "#/trainer"),
    ("POST", "/trainings", {**START, "trigger_word": "a\x00"}, "#/trigger_word"),
    ("POST", "/trainings", {**START, "trigger_word": None}, "#/trigger_word"),
    ("POST", "/trainings", {**START, "total_steps": 0}, "#/total_steps"),
    ("POST", "/trainings", {**START, "total_steps": 2**31}, "#/total_steps"),
    ("POST", "/trainings", {**START, "input": {"caption": "a\x00"}}, "#/input"),
    ("POST", "/trainings", {**START, "input": []}, "#/input"),
    ("POST", "/trainings", {**START, "unknown": 1}, "#/unknown"),
    ("PUT", "/trainings/t1", {**REGISTER, "input": {}}, "#/input"),
    ("PUT", "/trainings/not~an~id", REGISTER, "path.training_id"),
    ("GET", "/trainings/not~an~id", None, "path.training_id"),
    ("GET", "/trainings?limit=0", None, "query.limit"),
    ("GET", "/trainings?limit=1000", None, "query.limit"),
    ("GET", "/trainings?stage=nonsense", None, "query.stage"),
    ("GET", "/trainings?cursor=%00", None, "query.cursor"),
    ("GET", "/trainings?cursor=LTE", None, "query.cursor"),
    ("GET", "/trainings?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", None, "query.cursor"),
    ("GET", "/trainings?user_id=%00", None, "query.user_id"),
    ("GET", "/users/%00/model", None, "path.user_id"),
    ("GET", f"/users/{'a' * 201}/model", None, "path.user_id"),
    ("GET", "/users/a%09b/model/history", None, "path.user_id"),
]


class Untouched:
    """A store that is asked nothing, because what was asked of the API makes no sense."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def asked(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} was asked")

        return asked


@pytest.fixture
async def asker(replicate: Replicate) -> AsyncIterator[httpx.AsyncClient]:
    async with product(Untouched(), replicate) as client:
        yield client


@pytest.mark.parametrize(("method", "path", "body", "pointer"), INVALID)
async def test_what_makes_no_sense_is_named(asker, method, path, body, pointer):
    answer = await asker.request(method, path, json=body)

    errors = problem(answer, 422, "invalid")["errors"]
    assert pointer in [error["pointer"] for error in errors]
    assert all(error["detail"] for error in errors)


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "k" * 256])
async def test_a_key_that_is_none_is_named(asker, key):
    answer = await asker.post("/trainings", json=START, headers={"Idempotency-Key": key.encode()})

    assert problem(answer, 422, "invalid")["errors"][0]["pointer"] == "header.Idempotency-Key"


@pytest.mark.parametrize("number", ["NaN", "Infinity", '"\\ud800"'])
async def test_input_that_is_no_json_goes_nowhere(asker, number):
    body = json.dumps(START).replace('"steps": 700', f'"steps": {number}')
    answer = await asker.post("/trainings", content=body, headers={"Content-Type": "application/json"})

    assert problem(answer, 422, "invalid")["errors"][0]["pointer"].startswith("#/input")


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("POST", "/trainings", b"{", 422, "invalid"),
        ("POST", "/trainings", b'{"user_id": "\xff"}', 400, "bad-request"),
        ("POST", "/trainings", b"[" * 100_000, 400, "bad-request"),
        ("POST", "/trainings", b" " * (MAX_BODY_BYTES + 1), 413, "too-large"),
        ("GET", "/nonsense", b"", 404, "not-found"),
        ("GET", "/trainings/", b"", 404, "not-found"),
        ("DELETE", "/trainings", b"", 405, "method-not-allowed"),
        ("GET", "http://state/elsewhere", b"", 404, "not-found"),
    ],
)
async def test_every_refusal_is_a_problem(asker, method, path, content, status, kind):  # noqa: PLR0917 (a table)
    answer = await asker.request(
        method, path, content=content, headers={"Content-Type": "application/json"} if content else {}
    )

    problem(answer, status, kind)


async def test_while_postgres_is_away_every_question_is_put_off(database_url, replicate):
    async with Wire(database_url) as wire, opened_store(wire.url) as store, product(store, replicate) as client:
        wire.refuse()
        answers = [
            await client.post("/trainings", json=START),
            await client.put("/trainings/t1", json=REGISTER),
            await client.get("/trainings/t1"),
            await client.get("/trainings"),
            await client.get("/users/ada/trainings"),
            await client.get("/users/ada/model"),
            await client.get("/users/ada/model/history"),
        ]

    for answer in answers:
        assert "away" not in problem(answer, 503, "unavailable")["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert replicate.asked == []


class Broken:
    """A store with a bug."""

    async def find_model(self, user_id: str) -> ModelView | None:
        raise RuntimeError(f"the password of {user_id} is secret")


async def test_a_bug_of_ours_shows_nothing_of_the_inside(replicate):
    with capture_logs() as logged:
        async with product(Broken(), replicate) as client:
            answer = await client.get("/users/ada/model")

    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert [line["event"] for line in logged] == ["request.broken"]


# The description


async def test_the_description_names_every_operation_and_its_problems(asker):
    document = (await asker.get("/openapi.json")).json()

    operations = {o["operationId"]: o for methods in document["paths"].values() for o in methods.values()}
    assert sorted(operations) == [
        "cancel_training",
        "count_trainings",
        "follow_training",
        "get_model",
        "get_output",
        "get_swap_statistics",
        "get_timeline",
        "get_training",
        "get_webhook_statistics",
        "list_model_history",
        "list_models",
        "list_swaps",
        "list_trainings",
        "list_user_trainings",
        "register_training",
        "retry_extraction",
        "retry_user_extraction",
        "roll_back_model",
        "search",
        "start_training",
        "withdraw_model",
    ]
    for operation in operations.values():
        assert {"401", "422", "503"} <= operation["responses"].keys()
    assert document["servers"] == [{"url": "/v1"}]


async def test_the_description_lists_all_answers_of_starts(asker):
    paths = (await asker.get("/openapi.json")).json()["paths"]

    successes = {
        name: [status for status in operation["responses"] if status < "4"]
        for methods in paths.values()
        for name, operation in ((each["operationId"], each) for each in methods.values())
    }

    assert sorted(successes["start_training"]) == ["201", "202"]
    assert sorted(successes["register_training"]) == ["200", "201", "202"]
    assert sorted(successes["get_model"]) == ["200", "304"]


async def test_what_the_description_refers_to_is_in_it(asker):
    answer = await asker.get("/openapi.json")
    document = answer.json()

    for reference in re.findall(r'"\$ref":\s*"#/([^"]+)"', answer.text):
        part = document
        for name in reference.split("/"):
            assert name in part, reference
            part = part[name]


# Previews


async def preview(api: httpx.AsyncClient, message: EventMessage) -> Answer:
    answer = await api.post("/preview", json=message.model_dump(mode="json"))
    assert answer.status_code == 200, answer.text
    return Answer.model_validate_json(answer.content)


async def test_a_preview_answers_the_events_that_would_follow(store, replicate):
    await store.adopt(registration("ada", "t1"))

    async with product(store, replicate) as api:
        answer = await preview(api, EventMessage.of(replayed(ready("t1"))))

    assert answer.refusal is None
    assert [message.decode().event.key for message in answer.messages] == ["model.activated.v1", "replay.settled.v1"]
    assert await store.find_model("ada") is None


@pytest.mark.parametrize(
    ("message", "code", "is_transient"),
    [
        (EventMessage.of(ready("unknown")), "unknown_training", True),
        (EventMessage.of(ready("t1", model=ModelRef("acme", "bob", "0" * 64))), "destination_mismatch", False),
        (EventMessage.of(ready("t1")).model_copy(update={"body": b"rubbish"}), "malformed", False),
        (EventMessage.of(ready("t1")).model_copy(update={"headers": {}}), "malformed", False),
    ],
)
async def test_a_preview_answers_how_a_delivery_would_fail(store, replicate, message, code, is_transient):
    await store.adopt(registration("ada", "t1"))

    async with product(store, replicate) as api:
        refusal = (await preview(api, message)).refusal

    assert refusal is not None
    assert (refusal.code, refusal.is_transient) == (code, is_transient)


#: What the product sends, and what it is shown; but for a training, of which some part is always null, and FastAPI
#: leaves nulls out of its document.
BODIES = [StartTraining, RegisterTraining, RollBack, ModelView, SwapView]


@pytest.mark.parametrize("body", BODIES)
async def test_the_description_has_an_example_of_each_body_that_holds(asker, body):
    document = (await asker.get("/openapi.json")).json()

    (example,) = document["components"]["schemas"][body.__name__]["examples"]
    assert body.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


async def test_the_description_says_what_the_parts_of_a_training_mean(asker):
    document = (await asker.get("/openapi.json")).json()

    parts = document["components"]["schemas"]["TrainingView"]["properties"]
    assert "it never falls" in parts["progress"]["description"]
