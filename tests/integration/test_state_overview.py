"""Counts, statistics, the list of swaps, and search, against a real Postgres."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from services.state.rollback import RollbackOrder
from services.state.store import ROLE, Store
from services.state.store.overview import WEBHOOKS
from services.state.store.queries import LIST_OUTPUTS, LIST_TRAININGS
from services.state.transitions import Stage
from shared.contract.envelope import Envelope
from shared.contract.events import TrainingFailed
from shared.contract.identity import ModelName
from shared.runtime.clock import now
from shared.runtime.postgres import acquired, connect_pool
from tests.crowd import fill
from tests.databases import copy_of
from tests.integration.test_state_api import Replicate, problem, product
from tests.state import (
    connected,
    envelope,
    execute,
    failed,
    model_of,
    opened_store,
    ready,
    registration,
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


async def swap(store: Store, user: str, training: str, **fields: Any) -> None:
    await store.adopt(registration(user, training, **fields))
    destination = fields.get("destination")
    model = model_of(training, destination) if destination else None
    assert await store.apply([succeeded(training), ready(training, model=model)]) == [None, None]


# Counts


async def test_trainings_are_counted_by_stage(client, store):
    await swap(store, "ada", "t1")
    await swap(store, "ada", "t2")
    for training in ("t3", "t4"):
        await store.adopt(registration("bob", training))
    await store.apply([started("t3"), failed("t4")])

    items = (await client.get("/training-counts")).json()["items"]

    assert [item["stage"] for item in items] == [stage.value for stage in Stage]
    assert {item["stage"]: item["count"] for item in items if item["count"]} == {
        "active": 1,
        "replaced": 1,
        "running": 1,
        "failed": 1,
    }
    assert all(item["is_exact"] for item in items)


async def test_a_large_count_is_an_estimate(store, database_url):
    for number in range(30):
        await store.adopt(registration("ada", f"t{number}"))
    async with connected(database_url) as connection:
        await connection.execute("ANALYZE state.trainings")
    await store.adopt(registration("ada", "t30"))

    counts = {each.stage: (each.count, each.is_exact) for each in await store.count_trainings(exact=10)}

    assert counts[Stage.REQUESTED] == (30, False)
    assert counts[Stage.RUNNING] == (0, True)


async def test_a_large_count_is_at_least_what_was_counted(store, database_url):
    async with connected(database_url) as connection:
        await connection.execute("ANALYZE state.trainings")
    for number in range(12):
        await store.adopt(registration("ada", f"t{number}"))

    counts = {each.stage: (each.count, each.is_exact) for each in await store.count_trainings(exact=10)}

    assert counts[Stage.REQUESTED] == (11, False)


# Statistics


async def test_statistics_are_of_swaps_since_their_webhooks(client, store, database_url):
    for number in range(3):
        await swap(store, "ada", f"t{number}")
    await store.roll_back(RollbackOrder("ada", None, "too dark", "olga"))
    async with connected(database_url) as connection:
        await connection.execute(
            """UPDATE state.model_history SET at = date_trunc('hour', now(), 'UTC'),
               reported_at = CASE WHEN reported_at IS NOT NULL
                                  THEN date_trunc('hour', now(), 'UTC') - make_interval(secs => generation) END"""
        )

    found = (await client.get("/swap-statistics", params={"hours": 3})).json()

    assert found["total"] == {"swaps": 4, "p50_seconds": 2.0, "p99_seconds": pytest.approx(2.98)}
    assert [hour["swaps"] for hour in found["items"]] == [0, 0, 4]
    assert found["items"][0]["p50_seconds"] is None
    hours = [datetime.fromisoformat(hour["hour"]) for hour in found["items"]]
    assert [later - earlier for earlier, later in pairwise(hours)] == [timedelta(hours=1)] * 2


async def test_statistics_without_a_swap_are_zero_and_null(client):
    found = (await client.get("/swap-statistics")).json()

    assert found["total"] == {"swaps": 0, "p50_seconds": None, "p99_seconds": None}
    assert [hour["swaps"] for hour in found["items"]] == [0] * 24


async def test_a_swap_keeps_when_its_webhook_came(store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1")])
    await store.apply([ready("t1")])

    async with connected(database_url) as connection:
        row = await connection.fetchrow(
            "SELECT h.reported_at, t.reported_at AS of_training FROM state.model_history h "
            "JOIN state.trainings t USING (ref)"
        )

    assert row is not None
    assert row["reported_at"] == row["of_training"] == succeeded("t1").time


# Missed webhooks


def ended(training: str, *, recovered: bool, completed_at: datetime | None) -> Envelope:
    event = TrainingFailed(training_id=training, reason="x", recovered=recovered, completed_at=completed_at)
    return envelope(event, at=now())


async def test_ends_without_a_webhook_are_counted_as_missed(client, store):
    for number in range(1, 6):
        await store.adopt(registration("ada", f"t{number}"))
    soon = now() + timedelta(minutes=1)

    await store.apply(
        [
            ended("t1", recovered=False, completed_at=soon),
            ended("t2", recovered=True, completed_at=soon),
            # A webhook that comes late changes nothing.
            succeeded("t2", completed_at=soon),
            # Registered after its end, and given up: there was no webhook to miss.
            ended("t3", recovered=True, completed_at=now() - timedelta(hours=1)),
            ended("t4", recovered=True, completed_at=None),
        ]
    )
    found = (await client.get("/webhook-statistics", params={"hours": 2})).json()

    assert found["total"] == {"ended": 2, "missed": 1, "missed_share": 0.5}
    assert sum(hour["ended"] for hour in found["items"]) == 2
    assert len(found["items"]) == 2


async def test_no_end_has_no_share_of_missed_webhooks(client):
    found = (await client.get("/webhook-statistics")).json()

    assert found["total"] == {"ended": 0, "missed": 0, "missed_share": None}
    assert len(found["items"]) == 24


async def test_missed_webhooks_are_counted_from_an_index(migrated_database):
    async with copy_of(migrated_database) as url:
        await fill(url, trainings=3000, letters=0, groups=1)
        await execute(url, "VACUUM ANALYZE state.trainings")
        async with connected(url) as connection:
            await connection.execute("SET enable_seqscan = off")
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {WEBHOOKS}".replace("$1", "24")))

    assert "Index Only Scan using trainings_by_report" in plan


# Swaps


async def test_swaps_of_all_users_are_listed_by_time(client, store):
    await swap(store, "ada", "t1")
    await swap(store, "bob", "t2")

    since = now()
    await store.adopt(registration("eve", "t3"))
    await store.apply([ready("t3")])
    every = (await client.get("/swaps")).json()["items"]
    late = (await client.get("/swaps", params={"since": since.isoformat()})).json()["items"]
    early = (await client.get("/swaps", params={"until": since.isoformat()})).json()["items"]

    assert [(each["user_id"], each["training_id"]) for each in every] == [("eve", "t3"), ("bob", "t2"), ("ada", "t1")]
    assert [each["user_id"] for each in late] == ["eve"]
    assert [each["user_id"] for each in early] == ["bob", "ada"]


async def test_a_span_of_swaps_that_ends_before_it_begins_is_refused(client):
    span = {"since": "2026-11-29T12:00:00Z", "until": "2026-11-29T11:00:00Z"}

    answer = await client.get("/swaps", params=span)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "query.until", "detail": "must not be before `since`"}]


async def test_pages_of_swaps_miss_none_of_the_same_time(client, store, database_url):
    for number in range(5):
        await swap(store, f"user-{number}", f"t{number}")
    async with connected(database_url) as connection:
        await connection.execute(
            "UPDATE state.model_history SET at = (SELECT min(at) FROM state.model_history) WHERE user_id < 'user-3'"
        )

    seen, cursor = [], None
    while True:
        query = {"limit": "3"} | ({} if cursor is None else {"cursor": cursor})
        page = (await client.get("/swaps", params=query)).json()
        seen += [each["user_id"] for each in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break

    assert sorted(seen) == [f"user-{number}" for number in range(5)]


# Search


async def hits(client: httpx.AsyncClient, q: str) -> list[tuple[str, str, str | None]]:
    answer = await client.get("/search", params={"q": q})
    assert answer.status_code == 200
    return [(hit["kind"], hit["name"], hit["user_id"]) for hit in answer.json()["items"]]


async def test_search_finds_trainings_users_and_models(client, store):
    destination = ModelName("acme", "flux-ada-portrait")
    await swap(store, "ada/1", "t1", destination=destination)
    record = await store.find_training("t1")

    training = ("training", "t1", "ada/1")
    model = ("model", "acme/flux-ada-portrait", "ada/1")
    assert await hits(client, "t1") == [training]
    assert await hits(client, str(record.ref)) == [training]
    assert await hits(client, str(record.reference)) == [training]
    assert await hits(client, "ada/") == [("user", "ada/1", "ada/1")]
    assert await hits(client, "ada") == [("user", "ada/1", "ada/1"), model]
    assert await hits(client, "acme/flux") == [model]
    assert await hits(client, "Portrait") == [model]
    assert await hits(client, "ada-p") == [model]
    assert await hits(client, "nothing") == []


async def test_a_found_model_of_several_users_names_none(client, store):
    for user in ("ada", "bob"):
        await store.adopt(registration(user, f"{user}-t", destination=ModelName("acme", "shared")))

    assert await hits(client, "shared") == [("model", "acme/shared", None)]


async def test_a_search_says_when_there_is_more(client, store):
    for number in range(3):
        await store.adopt(registration(f"user-{number}", f"t{number}"))

    few = (await client.get("/search", params={"q": "user", "limit": "2"})).json()
    all_ = (await client.get("/search", params={"q": "user", "limit": "3"})).json()

    assert ([hit["name"] for hit in few["items"]], few["is_complete"]) == (["user-0", "user-1"], False)
    assert (len(all_["items"]), all_["is_complete"]) == (3, True)


async def test_a_model_with_many_fitting_parts_hides_no_other(client, store):
    for number, name in enumerate(("flux-flux-flux", "fluxes")):
        await store.adopt(registration("ada", f"t{number}", destination=ModelName("acme", name)))

    found = (await client.get("/search", params={"q": "flux", "limit": "1"})).json()

    assert ([hit["name"] for hit in found["items"]], found["is_complete"]) == (["acme/flux-flux-flux"], False)


@pytest.mark.parametrize("q", ["%", "_", "\\", "'", "ada%", '"><script>'])
async def test_no_character_is_special_in_a_search(client, store, q):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration(f"{q}!", "t2"))

    assert await hits(client, q) == [("user", f"{q}!", f"{q}!")]


async def test_a_search_for_nothing_is_refused(client):
    problem(await client.get("/search", params={"q": ""}), 422, "invalid")


# Large tables


_STAGE = "'unverified'"


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (LIST_TRAININGS[False, False], "1000000, 5"),
        (LIST_TRAININGS[False, True], f"1000000, 5, {_STAGE}"),
        (LIST_TRAININGS[True, False], "1000000, 5, 'crowd-7'"),
        (LIST_TRAININGS[True, True], f"1000000, 5, 'crowd-7', {_STAGE}"),
        (LIST_OUTPUTS[False], "'2000-01-01', 1000000, 5"),
        (LIST_OUTPUTS[True], f"'2000-01-01', 1000000, 5, {_STAGE}"),
    ],
)
async def test_a_list_of_trainings_reads_few_rows(migrated_database, statement, values):
    async with copy_of(migrated_database) as url:
        await fill(url, trainings=3000, letters=0, groups=1)
        await execute(url, "UPDATE state.trainings SET output = '{}'; ANALYZE state.trainings")
        pool = await connect_pool(url, application_name="test", role=ROLE, plans_once=True, min_size=1, max_size=1)
        async with acquired(pool) as connection:
            await connection.execute(f"PREPARE list AS {statement}")
            plan = await connection.fetch(f"EXPLAIN (ANALYZE) EXECUTE list ({values})")
        pool.terminate()
    removed = [int(found[1]) for line in plan if (found := re.search(r"Rows Removed by Filter: (\d+)", line[0]))]

    assert not [line for line in plan if "Seq Scan on trainings" in line[0]]
    assert sum(removed) <= 3
