"""The timeline of a training, against a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.state.rollback import RollbackOrder, WithdrawalOrder
from services.state.store import Store
from shared.contract.events import ModelReady
from shared.contract.values import Retries
from tests.integration.test_state_api import Replicate, problem, product
from tests.state import (
    NOON,
    connected,
    envelope,
    failed,
    model_of,
    not_verified,
    opened_store,
    ready,
    registration,
    replayed,
    started,
    succeeded,
)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async with product(store, Replicate()) as client:
        yield client


async def timeline_of(client: httpx.AsyncClient, training: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/trainings/{training}/timeline")
    assert (answer.status_code, answer.json()["is_complete"]) == (200, True)
    items: list[dict[str, Any]] = answer.json()["items"]
    assert [item["at"] for item in items] == sorted(item["at"] for item in items)
    return items


def kinds(items: list[dict[str, Any]]) -> set[tuple[str, str | None]]:
    return {(item["kind"], item.get("stage")) for item in items}


async def publish_all(store: Store) -> None:
    async def publish(events: Any) -> list[None]:
        return [None] * len(events)

    await store.relay(publish, limit=100)


async def test_a_timeline_goes_from_request_to_published_event(client, store):
    _, new = await store.adopt(registration("ada", "t1"))
    await store.apply([started("t1")])
    await store.apply([succeeded("t1", started_at=NOON, completed_at=NOON + timedelta(minutes=9)), ready("t1")])
    committed = await timeline_of(client, "t1")
    await publish_all(store)

    items = await timeline_of(client, "t1")

    assert new
    assert ("unpublished", None) in kinds(committed)
    assert kinds(items) == {
        ("requested", None),
        ("started", None),
        ("completed", None),
        ("reported", "running"),
        ("reported", "verifying"),
        ("verified", "active"),
        ("swapped", None),
        ("published", None),
    }
    (verified,) = [item for item in items if item["kind"] == "verified"]
    assert verified["detail"] == {
        "model": str(model_of("t1")),
        "evidence": {"shape": "version", "checks": ["exists"], "seconds": 0.5},
    }
    assert verified["event_id"] == ready("t1").id
    (published,) = [item for item in items if item["kind"] == "published"]
    assert published["event"] == "model.activated.v1"


async def test_each_fact_says_how_long_after_the_one_before(client, store):
    await store.adopt(registration("ada", "t1"))
    report = succeeded("t1", started_at=NOON, completed_at=NOON + timedelta(minutes=9))
    await store.apply([report])

    items = await timeline_of(client, "t1")

    assert [(item["kind"], item.get("seconds_since_previous")) for item in items[:3]] == [
        ("started", None),
        ("reported", 0.0),
        ("completed", 540.0),
    ]


async def test_a_timeline_shows_failed_extraction_retry_and_replay(client, store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1"), not_verified("t1")])
    await store.retry_extraction("ada", None)
    await store.apply([replayed(ready("t1"), "a-replay:7")])

    items = await timeline_of(client, "t1")

    by_kind = {item["kind"]: item for item in items}
    assert by_kind["not_verified"]["detail"] == {"error": "short_version", "detail": "short_version: no model"}
    assert by_kind["extraction_requested"]["event"] == "extraction.requested.v1"
    assert (by_kind["verified"]["replay"], by_kind["verified"]["event_id"]) == ("a-replay:7", ready("t1").id)
    assert by_kind["swapped"]["detail"]["cause"] == "replay"


async def test_a_timeline_shows_what_operators_did_to_the_model(client, store):
    for training in ("t1", "t2"):
        await store.adopt(registration("ada", training))
        await store.apply([ready(training)])
    await store.roll_back(RollbackOrder("ada", None, "too dark", "olga"))
    await store.withdraw(WithdrawalOrder("ada", "not ada", "olga"))

    items = await timeline_of(client, "t1")

    changes = [item for item in items if item["kind"] in {"swapped", "displaced", "rolled_back", "withdrawn"}]
    assert [(item["kind"], item["detail"].get("reason")) for item in changes] == [
        ("swapped", ""),
        ("displaced", None),
        ("rolled_back", "too dark"),
        ("withdrawn", "not ada"),
    ]
    assert changes[1]["detail"] == {"by": str(model_of("t2")), "cause": "training"}


async def test_a_superseded_training_says_so(client, store):
    for training in ("t1", "t2"):
        await store.adopt(registration("ada", training))
    await store.apply([ready("t2")])
    await store.apply([ready("t1")])

    items = await timeline_of(client, "t1")

    assert ("verified", "superseded") in kinds(items)
    assert [item["event"] for item in items if item["kind"] == "unpublished"] == ["model.superseded.v1"]


@pytest.mark.parametrize(
    ("end", "stage", "detail"),
    [(failed("t1"), "failed", {"reason": "out of memory"}), (succeeded("t1"), "verifying", {})],
    ids=["failed", "succeeded"],
)
async def test_a_found_end_is_recovered_not_reported(client, store, end, stage, detail):
    await store.adopt(registration("ada", "t1"))
    await store.apply([envelope(end.event.model_copy(update={"recovered": True}))])

    items = await timeline_of(client, "t1")

    (found,) = [item for item in items if item["kind"] == "recovered"]
    assert (found["stage"], found["detail"]) == (stage, detail)


async def test_a_timeline_says_at_which_attempt_it_was(client, store):
    retries = Retries(attempt=3, first_failed_at=NOON, last_error="not_there_yet")
    late = Retries(attempt=2, first_failed_at=NOON, last_error="unknown_training")
    event = ready("t1").event
    assert isinstance(event, ModelReady)
    verified = event.model_copy(update={"evidence": event.evidence.model_copy(update={"retries": retries})})
    await store.adopt(registration("ada", "t1"))
    await store.apply([replace(succeeded("t1"), retries=late)])
    await store.apply([envelope(verified, at=NOON + timedelta(seconds=40))])

    items = await timeline_of(client, "t1")

    by_kind = {item["kind"]: item for item in items}
    said = {"attempt": 3, "first_failed_at": "2026-11-24T12:00:00Z", "last_error": "not_there_yet"}
    assert (by_kind["verified"]["retries"], by_kind["verified"].get("applied_retries")) == (said, None)
    assert by_kind["reported"]["applied_retries"]["last_error"] == "unknown_training"
    assert by_kind["reported"].get("retries") is None
    assert "retries" not in by_kind["reported"]["detail"]
    assert "retries" not in by_kind["verified"]["detail"]["evidence"]


async def test_a_failure_without_an_event_is_shown_all_the_same(client, store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.apply([failed("t1")])
    async with connected(database_url) as connection:
        await connection.execute("DELETE FROM state.inbox")

    items = await timeline_of(client, "t1")

    (found,) = [item for item in items if item["kind"] == "failed"]
    assert found["detail"] == {"error": "training_failed", "detail": "out of memory"}


async def test_the_timeline_of_an_unknown_training_is_a_404(client):
    problem(await client.get(f"/trainings/{uuid4()}/timeline"), 404, "no-training")


# Output


async def test_the_output_is_shown_as_it_was_received(client, store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1", output={"weights": "<b>", "version": None})])

    body = (await client.get("/trainings/t1/output")).json()

    assert (body["output"], body["stage"]) == ({"weights": "<b>", "version": None}, "verifying")


async def test_a_training_without_output_says_so(client, store):
    await store.adopt(registration("ada", "t1"))

    problem(await client.get("/trainings/t1/output"), 404, "no-output")
