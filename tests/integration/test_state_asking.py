"""What comes of looking again, canceling and rolling back? The product's API over a real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest
import structlog.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.state.extraction import NoTraining
from services.state.rollback import (
    AlreadyCurrent,
    NoModel,
    NothingToRollBackTo,
    NotTheirs,
    RollbackOrder,
    WithdrawalOrder,
)
from services.state.store import Store, orders
from services.state.store.outbox import StoredEvent
from services.state.store.session import lock_user
from services.state.transitions import Stage
from shared.contract.errors import DependencyDown
from shared.contract.events import (
    Event,
    ExtractionRequested,
    ModelActivated,
    ModelReverted,
    ModelSuperseded,
    ModelWithdrawn,
)
from shared.contract.identity import ModelRef
from shared.replicate.errors import NotThere, Refused
from shared.runtime.postgres import Connection
from tests.integration.test_state_api import REGISTER, START, Replicate, problem, product
from tests.state import (
    DESTINATION,
    NOON,
    Wire,
    canceled,
    connected,
    decoded,
    destination_unknown,
    failed,
    model_of,
    not_verified,
    opened_store,
    ready,
    registration,
    started,
    succeeded,
)

KEY = {"Idempotency-Key": "once"}
BACK = {"reason": "the new one is too dark"}


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


async def adopt(store: Store, *training_ids: str, user_id: str = "ada") -> None:
    for training_id in training_ids:
        await store.adopt(registration(user_id, training_id))


async def told(store: Store) -> list[Event]:
    """What the relay publishes now."""
    published: list[Event] = []

    async def publish(stored: Sequence[StoredEvent]) -> Sequence[None]:
        published.extend(decoded(each).event for each in stored)
        return [None] * len(stored)

    done = await store.relay(publish, limit=1000)
    assert done is not None
    assert not done.failures
    return published


async def requests(store: Store) -> list[ExtractionRequested]:
    return [event for event in await told(store) if isinstance(event, ExtractionRequested)]


async def rows(database_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that a swap may change."""
    tables = ("users", "trainings", "user_models", "model_history", "outbox", "idempotency_keys")
    async with connected(database_url) as connection:
        return {
            table: [tuple(row.values()) for row in await connection.fetch(f"SELECT * FROM state.{table} ORDER BY 1, 2")]
            for table in tables
        }


# Looking again


@pytest.mark.parametrize("by", ["training_id", "ref"])
async def test_a_model_that_was_not_found_is_looked_for_again(client, store, by):
    await adopt(store, "t1")
    await store.apply([succeeded("t1", trainer_version="f" * 64, started_at=NOON), not_verified("t1")])
    before = (await client.get("/trainings/t1")).json()

    answer = await client.post(f"/trainings/{before[by]}/retry-extraction")

    assert (answer.status_code, answer.json()["stage"], answer.json()["failure"]) == (202, "verifying", None)
    assert answer.json() == (await client.get("/trainings/t1")).json()
    (asked,) = await requests(store)
    assert asked == ExtractionRequested(
        training_id="t1",
        request_id=asked.request_id,
        ref=UUID(before["ref"]),
        destination=DESTINATION,
        user_id=before["user_id"],
        output={"version": str(model_of("t1"))},
        trainer_version="f" * 64,
        started_at=NOON,
    )
    assert store.outbox_filled.is_set()


async def test_one_that_is_being_looked_for_may_be_asked_for_again(client, store):
    await adopt(store, "t1")
    await store.apply([succeeded("t1")])

    answers = [await client.post("/trainings/t1/retry-extraction") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({asked.request_id for asked in await requests(store)}) == 2


async def test_what_is_found_at_last_becomes_the_users_model(client, store):
    await adopt(store, "t0", "t1")
    await store.apply([ready("t0"), not_verified("t1")])

    await client.post("/trainings/t1/retry-extraction")
    meanwhile = (await client.get("/users/ada/model")).json()
    await store.apply([ready("t1")])

    assert meanwhile["training_id"] == "t0"
    assert (await client.get("/users/ada/model")).json()["training_id"] == "t1"


async def test_the_same_failure_as_the_first_time_ends_the_second_try(client, store):
    await adopt(store, "t1")
    await store.apply([not_verified("t1")])
    await client.post("/trainings/t1/retry-extraction")
    (asked,) = await requests(store)

    await store.apply([not_verified("t1", request_id=asked.request_id)])

    assert (await client.get("/trainings/t1")).json()["stage"] == "unverified"


@pytest.mark.parametrize("path", ["/trainings/t1/retry-extraction", "/users/ada/retry-extraction"])
async def test_the_same_request_with_the_same_key_looks_once(client, store, path):
    await adopt(store, "t1")
    await store.apply([not_verified("t1")])

    with structlog.testing.capture_logs() as logs:
        answers = await asyncio.gather(*(client.post(path, headers=KEY) for _ in range(8)))
        await store.apply([ready("t1")])
        later = await client.post(path, headers=KEY)

    assert [answer.status_code for answer in [*answers, later]] == [202] * 9
    assert len({answer.text for answer in answers}) == 1
    assert later.json()["ref"] == answers[0].json()["ref"]
    (request,) = await requests(store)
    assert [line["request_id"] for line in logs if line["event"] == "extraction.requested"] == [str(request.request_id)]


@pytest.mark.parametrize(
    "path", ["/trainings/t2/retry-extraction", "/users/ada/retry-extraction", "/users/bob/retry-extraction"]
)
async def test_the_same_key_for_something_else_is_a_mistake(client, store, path):
    await adopt(store, "t1", "t2")
    await adopt(store, "b1", user_id="bob")
    await store.apply([not_verified("t1"), not_verified("t2"), not_verified("b1")])
    await client.post("/trainings/t1/retry-extraction", headers=KEY)

    problem(await client.post(path, headers=KEY), 422, "idempotency-key-reused")
    problem(await client.post("/trainings", json=START, headers=KEY), 422, "idempotency-key-reused")

    assert len(await requests(store)) == 1


async def test_a_users_retry_picks_the_newest_training_without_model(client, store):
    await adopt(store, "t1", "t2", "t3", "t4", user_id="ada/1")
    await store.apply([not_verified("t1"), not_verified("t2"), ready("t3"), failed("t4")])

    answer = await client.post(f"/users/{quote('ada/1', safe='')}/retry-extraction")

    assert (answer.status_code, answer.json()["training_id"]) == (202, "t2")


@pytest.mark.parametrize("path", ["/users/ada/retry-extraction", "/users/nobody/retry-extraction"])
async def test_a_user_without_such_a_training_is_told_so(client, store, path):
    await adopt(store, "t1", "t2")
    await store.apply([ready("t1"), started("t2")])

    problem(await client.post(path), 404, "no-training")


async def test_a_training_that_nobody_registered_can_not_be_looked_at(client):
    problem(await client.post("/trainings/t9/retry-extraction"), 404, "no-training")


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([], "still-running"),
        ([started("t1")], "still-running"),
        ([failed("t1")], "training-failed"),
        ([canceled("t1")], "training-canceled"),
        ([ready("t1")], "has-model"),
    ],
    ids=["requested", "running", "failed", "canceled", "active"],
)
async def test_a_pointless_retry_is_refused_with_the_reason(client, store, events, kind):
    await adopt(store, "t1")
    await store.apply(events)
    before = (await client.get("/trainings/t1")).json()

    answer = await client.post("/trainings/t1/retry-extraction", headers=KEY)

    assert "t1" in problem(answer, 409, kind)["detail"]
    assert (await client.get("/trainings/t1")).json() == before
    assert await requests(store) == []


async def test_a_refusal_does_not_use_the_key_up(client, store):
    await adopt(store, "t1")
    refused = await client.post("/trainings/t1/retry-extraction", headers=KEY)
    await store.apply([not_verified("t1")])

    answer = await client.post("/trainings/t1/retry-extraction", headers=KEY)

    assert (refused.status_code, answer.status_code) == (409, 202)


async def test_an_output_too_large_for_a_message_is_left_to_replicate(client, store, database_url):
    await adopt(store, "t1")
    await store.apply([succeeded("t1", output="x"), not_verified("t1")])
    async with connected(database_url) as connection:  # no event carries one so large any more
        await connection.execute("UPDATE state.trainings SET output = $1", json.dumps("x" * 700_000))

    answer = await client.post("/trainings/t1/retry-extraction")

    (asked,) = await requests(store)
    assert (answer.status_code, asked.output) == (202, None)


async def test_a_deleted_user_is_not_looked_after(client, store, database_url):
    await adopt(store, "t1")
    await store.apply([not_verified("t1")])
    async with connected(database_url) as connection:
        await connection.execute("UPDATE state.users SET deleted_at = now()")

    problem(await client.post("/trainings/t1/retry-extraction"), 409, "user-deleted")
    problem(await client.post("/users/ada/model/rollback", json=BACK), 409, "user-deleted")


async def test_a_missing_destination_is_added_by_a_new_extraction(store):
    await adopt(store, "t1", "t2")
    version = "f" * 64
    await store.apply([succeeded("t1", output=version, started_at=NOON)])

    results = await store.apply([destination_unknown("t1"), destination_unknown("t2")])
    await store.apply([destination_unknown("t1")])

    first, second = await requests(store)
    assert results == [None, None]
    assert (first.training_id, first.destination, first.output, first.started_at) == ("t1", DESTINATION, version, NOON)
    assert (second.training_id, second.output) == ("t2", None)
    record = await store.find_training("t1")
    assert record is not None
    assert (record.stage, record.failure) == (Stage.VERIFYING, None)


# Canceling


async def test_a_cancel_changes_the_stage_only_by_replicates_event(client, store, replicate):
    await adopt(store, "t1")
    await store.apply([started("t1")])

    answer = await client.post("/trainings/t1/cancel")
    asked = (await client.get("/trainings/t1")).json()
    await store.apply([canceled("t1")])

    assert (answer.status_code, answer.json()["stage"], asked["stage"]) == (202, "running", "running")
    assert replicate.canceled == ["t1"]
    assert (await client.get("/trainings/t1")).json()["stage"] == "canceled"


@pytest.mark.parametrize("event", [succeeded("t1"), failed("t1"), canceled("t1"), ready("t1"), not_verified("t1")])
async def test_what_has_ended_can_not_be_canceled(client, store, replicate, event):
    await adopt(store, "t1")
    await store.apply([event])

    problem(await client.post("/trainings/t1/cancel"), 409, "already-ended")

    assert replicate.canceled == []


async def test_a_training_without_an_id_can_not_be_canceled_yet(client, replicate):
    begun = (await client.post("/trainings", json={**REGISTER, "start": False})).json()

    problem(await client.post(f"/trainings/{begun['ref']}/cancel"), 409, "id-not-known-yet")

    assert replicate.canceled == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotThere("cancel training t1: 404"), (409, "cancel-refused")),
        (Refused("cancel training t1: 409 it has ended", status=409), (409, "cancel-refused")),
        (DependencyDown("away"), (503, "unavailable")),
    ],
)
async def test_what_replicate_does_not_cancel_is_said(client, store, replicate, error, expected):
    await adopt(store, "t1")
    replicate.error = error

    problem(await client.post("/trainings/t1/cancel"), *expected)


async def test_a_training_that_nobody_registered_can_not_be_canceled(client):
    problem(await client.post("/trainings/t9/cancel"), 404, "no-training")


# Rolling back


@pytest.fixture
async def used(store: Store) -> None:
    """Ada used the models of t1 and t3, and uses that of t4; t2 was superseded, t5 still runs. Bob has one model."""
    await adopt(store, "t1", "t2", "t3", "t4", "t5")
    await adopt(store, "b1", user_id="bob")
    await store.apply([ready("t1"), ready("t3"), ready("t4"), ready("t2"), started("t5"), ready("b1")])
    await told(store)


@pytest.mark.usefixtures("used")
async def test_a_rollback_shows_the_earlier_model_everywhere(client, store):
    answer = await client.post("/users/ada/model/rollback", json=BACK)

    current = await client.get("/users/ada/model")
    history = (await client.get("/users/ada/model/history")).json()["items"]
    assert (answer.status_code, answer.json()) == (200, current.json())
    assert answer.headers["etag"] == current.headers["etag"] == '"6"'
    assert (answer.json()["training_id"], answer.json()["reference"]) == ("t3", str(model_of("t3")))
    assert "dry_run" not in answer.json()
    assert {name: history[0][name] for name in ("generation", "cause", "actor", "reason", "previous_reference")} == {
        "generation": 6,
        "cause": "rollback",
        "actor": "api",
        "reason": BACK["reason"],
        "previous_reference": str(model_of("t4")),
    }
    shown = {each: (await client.get(f"/trainings/{each}")).json() for each in ("t3", "t4")}
    assert [(each["stage"], each["current"]) for each in shown.values()] == [("active", True), ("replaced", False)]
    assert [(each["generation"], each["activated_generation"]) for each in shown.values()] == [(3, 6), (4, 4)]
    (event, noted) = await told(store)
    assert isinstance(event, ModelActivated)
    assert isinstance(noted, ModelReverted)
    assert (noted.actor, noted.reason) == ("api", BACK["reason"])
    assert (event.user_id, event.generation, event.model, event.previous, event.cause) == (
        "ada",
        6,
        model_of("t3"),
        model_of("t4"),
        "rollback",
    )


@pytest.mark.usefixtures("used")
async def test_who_rolled_back_is_not_taken_from_the_request(client):
    answer = await client.post("/users/ada/model/rollback", json={**BACK, "actor": "olga"})

    (mistake,) = problem(answer, 422, "invalid")["errors"]
    assert mistake == {
        "pointer": "#/actor",
        "detail": "is the name of the token, and cannot be used as an actor: leave it out",
    }


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("token", "headers", "actor"),
    [
        ("ops-secret", {"Modelswap-On-Behalf-Of": "olga"}, "olga"),
        ("ops-secret", {}, "ops"),
        ("bens-secret", {}, "ben"),
    ],
)
async def test_the_history_has_the_name_of_the_token_that_asked(client, token, headers, actor):
    headers = {"Authorization": f"Bearer {token}", **headers}

    await client.post("/users/ada/model/rollback", json=BACK, headers=headers)

    assert (await client.get("/users/ada/model/history")).json()["items"][0]["actor"] == actor


@pytest.mark.usefixtures("used")
async def test_a_product_s_token_speaks_for_nobody_else(client, database_url):
    before = await rows(database_url)

    answer = await client.post("/users/ada/model/rollback", json=BACK, headers={"Modelswap-On-Behalf-Of": "olga"})

    assert "may not speak for others" in problem(answer, 403, "forbidden")["detail"]
    assert await rows(database_url) == before


@pytest.mark.usefixtures("used")
async def test_a_reader_of_the_product_s_api_reads_and_changes_nothing(client, database_url):
    before, reader = await rows(database_url), {"Authorization": "Bearer readers-secret"}

    seen = await client.get("/users/ada/model", headers=reader)
    answers = [
        await client.post(path, json=BACK, headers=reader)
        for path in ("/users/ada/model/rollback", "/trainings", "/trainings/t5/cancel", "/preview")
    ]

    assert seen.status_code == 200
    for answer in answers:
        problem(answer, 403, "forbidden")
    assert await rows(database_url) == before


@pytest.mark.usefixtures("used")
async def test_an_active_training_shows_the_models_generation(client):
    await client.post("/users/ada/model/rollback", json=BACK)

    (active,) = (await client.get("/trainings?stage=active&user_id=ada")).json()["items"]
    model = (await client.get("/users/ada/model")).json()
    never = [(await client.get(f"/trainings/{each}")).json() for each in ("t2", "t5")]

    assert (active["training_id"], active["activated_generation"]) == ("t3", model["generation"])
    assert [each["activated_generation"] for each in never] == [None, None]


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("name", ["t1", "t2", "t3"])
async def test_a_rollback_may_name_any_verified_model_of_the_user(client, name):
    answer = await client.post("/users/ada/model/rollback", json={**BACK, "to": str(model_of(name))})

    assert (answer.status_code, answer.json()["training_id"]) == (200, name)


@pytest.mark.usefixtures("used")
async def test_back_and_back_again_never_offers_what_was_taken_back(client):
    answers = [await client.post("/users/ada/model/rollback", json=BACK) for _ in range(3)]
    named = await client.post("/users/ada/model/rollback", json={**BACK, "to": str(model_of("t4"))})

    assert [answer.json()["training_id"] for answer in answers[:2]] == ["t3", "t1"]
    assert "say which one to roll back to" in problem(answers[2], 409, "nothing-to-roll-back-to")["detail"]
    assert (named.json()["training_id"], named.json()["generation"]) == ("t4", 8)


# Withdrawing


WITHDRAW = "/users/ada/model/withdraw"


@pytest.mark.usefixtures("used")
async def test_a_withdrawn_model_is_gone_and_all_that_shows_it_says_so(client, store):
    answer = await client.post(WITHDRAW, json=BACK)

    history = (await client.get("/users/ada/model/history")).json()["items"]
    training = (await client.get("/trainings/t4")).json()
    problem(await client.get("/users/ada/model"), 404, "no-model")
    assert (answer.status_code, answer.json()) == (200, history[0])
    assert {name: history[0][name] for name in ("generation", "reference", "previous_reference", "cause", "actor")} == {
        "generation": 6,
        "reference": None,
        "previous_reference": str(model_of("t4")),
        "cause": "withdrawal",
        "actor": "api",
    }
    assert (history[0]["training_id"], history[0]["reason"]) == ("t4", BACK["reason"])
    assert (training["stage"], training["current"], training["reference"]) == ("replaced", False, str(model_of("t4")))
    assert training["activated_generation"] == 4
    withdrawn, noted = await told(store)
    assert withdrawn == ModelWithdrawn(
        training_id="t4", user_id="ada", generation=6, ref=UUID(training["ref"]), previous=model_of("t4")
    )
    assert isinstance(noted, ModelReverted)
    assert (noted.model, noted.previous, noted.reason) == (None, model_of("t4"), BACK["reason"])


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_after_a_withdrawal_only_later_trainings_become_current(client, store, in_one_batch):
    await client.post(WITHDRAW, json=BACK)
    await adopt(store, "t7")

    await store.apply([ready("t4"), ready("t5")])
    problem(await client.get("/users/ada/model"), 404, "no-model")
    late = (await client.get("/trainings/t5")).json()["stage"]
    for batch in [[ready("t7"), ready("t1")]] if in_one_batch else [[ready("t1")], [ready("t7")]]:
        await store.apply(batch)

    _, _, superseded, activated = await told(store)
    assert isinstance(superseded, ModelSuperseded)
    assert (late, superseded.generation, superseded.current_generation) == ("superseded", 5, 6)
    assert isinstance(activated, ModelActivated)
    assert (activated.generation, activated.previous) == (7, None)
    assert (await client.get("/users/ada/model")).json()["training_id"] == "t7"


@pytest.mark.usefixtures("used")
async def test_what_was_withdrawn_is_not_offered_and_can_be_named(client):
    await client.post("/users/bob/model/withdraw", json=BACK)
    await client.post(WITHDRAW, json=BACK)

    nothing = await client.post("/users/bob/model/rollback", json=BACK)
    offered = await client.post("/users/ada/model/rollback", json={**BACK, "dry_run": True})
    named = await client.post("/users/ada/model/rollback", json={**BACK, "to": str(model_of("t4"))})

    problem(nothing, 404, "no-model")
    assert offered.json()["training_id"] == "t3"
    assert (named.json()["training_id"], named.json()["generation"]) == ("t4", 7)
    assert (await client.get("/trainings/t4")).json()["stage"] == "active"


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (BACK, {"If-Match": '"3"'}, (412, "precondition-failed")),
        ({}, {}, (422, "invalid")),
        ({"reason": "a\nb"}, {}, (422, "invalid")),
        ({"reason": "  "}, {}, (422, "invalid")),
        ({**BACK, "to": str(model_of("t1"))}, {}, (422, "invalid")),
        ({**BACK, "actor": "olga"}, {}, (422, "invalid")),
        (BACK, {"Authorization": "Bearer readers-secret"}, (403, "forbidden")),
    ],
)
async def test_what_can_not_be_withdrawn_is_said_and_changes_nothing(client, database_url, body, headers, expected):
    before = await rows(database_url)

    problem(await client.post(WITHDRAW, json=body, headers={**KEY, **headers}), *expected)

    assert await rows(database_url) == before


async def test_whoever_has_no_model_has_none_to_be_withdrawn(client):
    problem(await client.post("/users/nobody/model/withdraw", json=BACK), 404, "no-model")


@pytest.mark.usefixtures("used")
async def test_a_dry_run_of_a_withdrawal_writes_nothing(client, database_url):
    before = await rows(database_url)

    planned = (await client.post(WITHDRAW, json={**BACK, "dry_run": True}, headers=KEY)).json()
    after = await rows(database_url)
    done = (await client.post(WITHDRAW, json=BACK, headers=KEY)).json()

    assert after == before
    assert planned.pop("dry_run") is True
    assert {**planned, "at": done["at"]} == done


@pytest.mark.usefixtures("used")
async def test_the_same_withdrawal_with_the_same_key_happens_once(client, store):
    answers = await asyncio.gather(*(client.post(WITHDRAW, json=BACK, headers=KEY) for _ in range(8)))
    await adopt(store, "t7")
    await store.apply([ready("t7")])
    later = await client.post(WITHDRAW, json=BACK, headers=KEY)

    assert {(answer.status_code, answer.text) for answer in [*answers, later]} == {(200, answers[0].text)}
    problem(await client.post("/users/ada/model/rollback", json=BACK, headers=KEY), 422, "idempotency-key-reused")
    assert (await client.get("/users/ada/model")).json()["training_id"] == "t7"


# Rolling back, with all that may happen at once


@pytest.mark.usefixtures("used")
async def test_a_rollback_beats_older_requests_and_not_newer_ones(client, store):
    await client.post("/users/ada/model/rollback", json=BACK)
    await adopt(store, "t7")

    await store.apply([ready("t5")])
    still = (await client.get("/users/ada/model")).json()
    await store.apply([ready("t7")])

    _, _, superseded, _ = await told(store)
    assert (still["training_id"], still["generation"]) == ("t3", 6)
    assert isinstance(superseded, ModelSuperseded)
    assert (superseded.generation, superseded.current_generation) == (5, 6)
    now = (await client.get("/users/ada/model")).json()
    assert (now["training_id"], now["generation"]) == ("t7", 7)
    assert (await client.get("/trainings/t3")).json()["stage"] == "replaced"


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("user_id", "body", "expected"),
    [
        ("nobody", BACK, (404, "no-model")),
        ("bob", BACK, (409, "nothing-to-roll-back-to")),
        ("ada", {**BACK, "to": str(model_of("t4"))}, (409, "already-current")),
        ("ada", {**BACK, "to": str(model_of("t5"))}, (422, "not-their-model")),
        ("ada", {**BACK, "to": str(model_of("b1"))}, (422, "not-their-model")),
        ("ada", {"reason": ""}, (422, "invalid")),
        ("ada", {"reason": "  "}, (422, "invalid")),
        ("ada", {"reason": "a\nb"}, (422, "invalid")),
        ("ada", {"reason": "x" * 1001}, (422, "invalid")),
        ("ada", {**BACK, "actor": "olga"}, (422, "invalid")),
        ("ada", {**BACK, "to": "acme/ada"}, (422, "invalid")),
        ("ada", {**BACK, "unknown": 1}, (422, "invalid")),
    ],
)
async def test_what_can_not_be_rolled_back_is_said_and_changes_nothing(client, database_url, user_id, body, expected):
    before = await rows(database_url)

    problem(await client.post(f"/users/{user_id}/model/rollback", json=body, headers=KEY), *expected)

    assert await rows(database_url) == before


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("if_match", ['"3"', 'W/"4"', "4", "", '"3", "5"', '"' + "9" * 40 + '"'])
@pytest.mark.parametrize("dry_run", [True, False])
async def test_whoever_has_seen_another_model_changes_nothing(client, database_url, if_match, dry_run):
    before = await rows(database_url)

    answer = await client.post(
        "/users/ada/model/rollback", json={**BACK, "dry_run": dry_run}, headers={"If-Match": if_match}
    )

    problem(answer, 412, "precondition-failed")
    assert await rows(database_url) == before


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("if_match", ['"4"', '"3", "4"', "*"])
async def test_whoever_has_seen_the_current_model_may_go_back(client, if_match):
    answer = await client.post("/users/ada/model/rollback", json=BACK, headers={"If-Match": if_match})

    assert answer.status_code == 200


@pytest.mark.usefixtures("used")
async def test_a_dry_run_says_what_would_be_and_writes_nothing(client, database_url):
    before = await rows(database_url)

    planned = (await client.post("/users/ada/model/rollback", json={**BACK, "dry_run": True}, headers=KEY)).json()
    after = await rows(database_url)
    done = (await client.post("/users/ada/model/rollback", json=BACK, headers=KEY)).json()

    assert after == before
    assert planned.pop("dry_run") is True
    assert {**planned, "activated_at": done["activated_at"]} == done


@pytest.mark.usefixtures("used")
async def test_a_rollback_with_the_same_key_happens_once(client, store):
    headers = {**KEY, "If-Match": '"4"'}

    answers = await asyncio.gather(
        *(client.post("/users/ada/model/rollback", json=BACK, headers=headers) for _ in range(8))
    )
    await adopt(store, "t7")
    await store.apply([ready("t7")])
    later = await client.post("/users/ada/model/rollback", json=BACK, headers=headers)

    assert {(answer.status_code, answer.text) for answer in [*answers, later]} == {(200, answers[0].text)}
    assert [type(event) for event in await told(store)] == [ModelActivated, ModelReverted, ModelActivated]


@pytest.mark.usefixtures("used")
async def test_the_same_key_for_another_rollback_is_a_mistake(client):
    await client.post("/users/ada/model/rollback", json=BACK, headers=KEY)

    for path, body in (("ada", {**BACK, "reason": "another"}), ("bob", BACK)):
        answer = await client.post(f"/users/{path}/model/rollback", json=body, headers=KEY)
        problem(answer, 422, "idempotency-key-reused")


async def test_a_rollback_whose_answer_was_lost_happens_once(database_url):
    async with Wire(database_url) as wire, opened_store(wire.url) as store, product(store, Replicate()) as client:
        await adopt(store, "t1", "t2")
        await store.apply([ready("t1"), ready("t2")])
        wire.swallow_answer_to(b"COMMIT")

        lost = await client.post("/users/ada/model/rollback", json=BACK, headers=KEY)
        again = await client.post("/users/ada/model/rollback", json=BACK, headers=KEY)

        assert (lost.status_code, wire.swallowed) == (503, 1)
        assert (again.status_code, again.json()["generation"]) == (200, 3)
        assert [line.generation for line in await store.list_history("ada", limit=9)] == [3, 2, 1]


async def test_a_model_made_twice_is_credited_to_the_newer_training(client, store):
    same = model_of("t1")
    await adopt(store, "t1", "t2", "t3")
    await store.apply([ready("t1", model=same), ready("t2", model=same), ready("t3")])

    default = await client.post("/users/ada/model/rollback", json={**BACK, "dry_run": True})
    named = await client.post("/users/ada/model/rollback", json={**BACK, "to": str(same)})

    assert default.json()["training_id"] == named.json()["training_id"] == "t2"


async def test_an_order_sees_nothing_of_a_user_who_appears_meanwhile(store, monkeypatch):
    async def lock_before_the_registration(connection: Connection, user_id: str) -> int | None:
        generation = await lock_user(connection, user_id)
        await adopt(store, f"{user_id}-1", user_id=user_id)
        await store.apply([succeeded(f"{user_id}-1") if user_id == "bob" else ready(f"{user_id}-1")])
        return generation

    monkeypatch.setattr(orders, "lock_user", lock_before_the_registration)

    with pytest.raises(NoModel):
        await store.withdraw(WithdrawalOrder("ada", "why not", "dice"))
    with pytest.raises(NoTraining):
        await store.retry_extraction("bob", None)

    assert [line.generation for line in await store.list_history("ada", limit=9)] == [1]


@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_concurrent_changes_only_raise_the_generation(store, dice, trainings, rollbacks, withdrawals):
    user = uuid4().hex
    names = [f"{user}-{number}" for number in range(trainings)]
    seen: list[int] = []

    async def finish(name: str) -> None:
        await adopt(store, name, user_id=user)
        assert await store.apply([ready(name)]) == [None]

    async def go_back(wanted: ModelRef | None) -> None:
        with contextlib.suppress(NoModel, NothingToRollBackTo, AlreadyCurrent, NotTheirs):
            await store.roll_back(RollbackOrder(user, wanted, "why not", "dice"))

    async def take_away() -> None:
        with contextlib.suppress(NoModel):
            await store.withdraw(WithdrawalOrder(user, "why not", "dice"))

    async def watch() -> None:
        for _ in range(10):
            model = await store.find_model(user)
            seen.extend([model.generation] if model else [])

    wanted = dice.choices([None, *map(model_of, names)], k=rollbacks)
    work: list[Callable[[], Awaitable[None]]] = [
        *(partial(finish, name) for name in names),
        *(partial(go_back, model) for model in wanted),
        *[take_away] * withdrawals,
        watch,
    ]
    dice.shuffle(work)
    await asyncio.gather(*(start() for start in work))

    history = await store.list_history(user, limit=100)
    generations = [line.generation for line in history]
    model = await store.find_model(user)
    records = [await store.find_training(name) for name in names]
    assert history
    assert (model and model.reference) == history[0].reference
    assert model is None or model.generation == history[0].generation
    assert generations == sorted(set(generations), reverse=True)
    assert seen == sorted(seen)
    assert [line.previous_reference for line in history] == [*(line.reference for line in history[1:]), None]
    active = [record.training_id for record in records if record and record.stage is Stage.ACTIVE]
    assert active == ([model.training_id] if model else [])
    changes = [event for event in await told(store) if isinstance(event, ModelActivated | ModelWithdrawn)]
    assert [(event.generation, event.model if isinstance(event, ModelActivated) else None) for event in changes] == [
        (line.generation, line.reference) for line in reversed(history)
    ]
