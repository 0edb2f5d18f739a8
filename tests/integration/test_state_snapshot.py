"""Snapshots of all users' models: complete together with the events after them, whatever is swapped meanwhile."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import httpx
import pytest

from services.state.rollback import WithdrawalOrder
from services.state.store import ROLE, Store
from services.state.store.snapshot import LIST_ALL, LIST_CHANGED
from tests.databases import plan_on_empty_tables
from tests.integration.test_state_api import Replicate, problem, product
from tests.state import connected, model_of, opened_store, ready, registration

#: Makes a user's model current once more, as a rollback to itself would.
AGAIN = """
    WITH changed AS (
        UPDATE state.user_models SET generation = generation + 1, activated_at = clock_timestamp() WHERE user_id = $1
        RETURNING *
    )
    INSERT INTO state.model_history
        (user_id, generation, ref, model, trigger_word, cause, previous_model, actor, reason, at)
    SELECT user_id, generation, ref, model, trigger_word, 'rollback', model, 'test', 'test', activated_at FROM changed
"""
EVENTS = """
    SELECT user_id, generation, routing_key FROM state.outbox
    WHERE routing_key IN ('model.activated.v1', 'model.withdrawn.v1') AND id > $1 ORDER BY id
"""


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async with product(store, Replicate()) as client:
        yield client


async def swap(store: Store, *users: str) -> None:
    """Let each of *users* have another model."""
    for user in users:
        training_id = f"{user}-{await generation_of(store, user) + 1}"
        await store.adopt(registration(user, training_id))
        assert await store.apply([ready(training_id)]) == [None]


async def generation_of(store: Store, user: str) -> int:
    history = await store.list_history(user, limit=1)
    return history[0].generation if history else 0


async def withdraw(store: Store, user: str) -> None:
    await store.withdraw(WithdrawalOrder(user, "blurred", "olga"))


async def get(client: httpx.AsyncClient, **query: Any) -> Any:
    answer = await client.get("/models", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pages(client: httpx.AsyncClient, **query: Any) -> list[Any]:
    """All pages of a snapshot."""
    found = [await get(client, **query)]
    while found[-1]["next_cursor"]:
        found.append(await get(client, **query, cursor=found[-1]["next_cursor"]))
    return found


async def changes(client: httpx.AsyncClient, since: str) -> list[tuple[str, int, bool]]:
    items = (await get(client, updated_since=since))["items"]
    return [(item["user_id"], item["generation"], item.get("withdrawn", False)) for item in items]


def newest(*known: Sequence[tuple[str, int, bool]]) -> dict[str, tuple[int, bool]]:
    """What a subscriber has that keeps the highest generation of each user: with whether there is a model."""
    kept: dict[str, tuple[int, bool]] = {}
    for user, generation, has_model in (each for part in known for each in part):
        if generation > kept.get(user, (0, False))[0]:
            kept[user] = generation, has_model
    return kept


async def test_a_snapshot_has_a_whole_model_or_a_withdrawal_of_each_user(client, store):
    await swap(store, "ada", "bob", "cleo")
    await withdraw(store, "bob")

    answer = await get(client)
    single = (await client.get("/users/ada/model")).json()

    ada, bob, cleo = answer["items"]
    assert ada == {"user_id": "ada", "generation": 1, "updated_at": single["activated_at"], "model": single}
    assert bob == {"user_id": "bob", "generation": 2, "updated_at": bob["updated_at"], "withdrawn": True}
    assert cleo["model"]["reference"] == str(model_of("cleo-1"))
    assert answer["next_cursor"] is None


async def test_without_any_user_a_snapshot_is_empty(client):
    answer = await get(client)

    assert (answer["items"], answer["next_cursor"]) == ([], None)
    assert datetime.fromisoformat(answer["next_updated_since"]).tzinfo


async def test_pages_stay_right_while_models_are_swapped(client, store, database_url):
    await swap(store, "b", "c", "d", "e", "f", "g")
    await withdraw(store, "g")
    async with connected(database_url) as connection:
        last = await connection.fetchval("SELECT max(id) FROM state.outbox")
    first = await get(client, limit=2)

    await swap(store, "a", "b", "d", "g")
    await withdraw(store, "e")
    second = await get(client, limit=2, cursor=first["next_cursor"])
    await withdraw(store, "c")
    await swap(store, "f")
    third = await get(client, limit=2, cursor=second["next_cursor"])

    shown = [page["items"] for page in (first, second, third)]
    assert [[item["user_id"] for item in items] for items in shown] == [["b", "c"], ["d", "e"], ["f", "g"]]
    assert (third["next_cursor"], {page["next_updated_since"] for page in (first, second, third)}) == (
        None,
        {first["next_updated_since"]},
    )
    snapshot = [(item["user_id"], item["generation"], "model" in item) for items in shown for item in items]
    async with connected(database_url) as connection:
        events = [(row[0], row[1], row[2] == "model.activated.v1") for row in await connection.fetch(EVENTS, last)]
        rows = await connection.fetch(
            "SELECT DISTINCT ON (user_id) user_id, generation, model IS NOT NULL FROM state.model_history "
            "ORDER BY user_id, generation DESC"
        )
    assert newest(snapshot, events) == {row[0]: (row[1], row[2]) for row in rows}


async def test_a_snapshot_since_a_time_has_only_what_changed(client, store):
    await swap(store, "ada", "bob", "cleo", "dora")
    await withdraw(store, "dora")
    whole = (await get(client))["items"]
    since = max(item["updated_at"] for item in whole)
    await swap(store, "bob")
    await withdraw(store, "cleo")
    await withdraw(store, "bob")
    await swap(store, "bob")

    changed = await changes(client, since)

    # What changed at that very time is among them.
    assert changed == [("dora", 2, True), ("cleo", 2, True), ("bob", 4, False)]
    assert await changes(client, "2999-01-01T00:00:00Z") == []


async def test_a_snapshot_since_a_time_is_paged_in_the_order_of_changes(client, store):
    await swap(store, "ada", "bob", "cleo")
    since = (await get(client))["next_updated_since"]
    await withdraw(store, "bob")
    await swap(store, "ada")

    found = await pages(client, updated_since=since, limit=1)

    assert [[item["user_id"] for item in page["items"]] for page in found] == [["cleo"], ["bob"], ["ada"]]
    assert len({page["next_updated_since"] for page in found}) == 1


async def test_a_swap_during_a_snapshot_since_a_time_does_not_prolong_it(client, store):
    await swap(store, "ada", "bob")
    since = (await get(client))["next_updated_since"]
    first = await get(client, updated_since=since, limit=1)
    await swap(store, "ada", "cleo")

    second = await get(client, updated_since=since, limit=1, cursor=first["next_cursor"])

    assert [item["user_id"] for item in second["items"]] == ["bob"]
    assert second["next_cursor"] is None
    assert {name for name, *_ in await changes(client, first["next_updated_since"])} == {"ada", "bob", "cleo"}


async def test_a_change_that_is_committed_late_is_in_the_next_snapshot(client, store, database_url):
    await swap(store, "ada", "bob")
    async with connected(database_url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(AGAIN, "bob")
        await swap(store, "ada")
        before = await get(client)
        await transaction.commit()

    seen = {item["user_id"]: item for item in before["items"]}
    after = {item["user_id"]: item for item in (await get(client, updated_since=before["next_updated_since"]))["items"]}

    assert (seen["bob"]["generation"], after["bob"]["generation"]) == (1, 2)
    # The newest time that was seen would be too late.
    assert after["bob"]["updated_at"] < max(item["updated_at"] for item in before["items"])


@pytest.mark.parametrize("cursor", ["x", "0" * 28, "0" * 29, "A" * 30, "AAAAAAAAAAA"])
async def test_a_cursor_of_something_else_is_refused(client, cursor):
    body = problem(await client.get("/models", params={"cursor": cursor}), 422, "invalid")

    assert body["errors"] == [{"pointer": "query.cursor", "detail": "must be the `next_cursor` of an earlier page"}]


@pytest.mark.parametrize(
    ("statement", "parameters", "indexes"),
    [
        (LIST_ALL, 2, ("user_models_pkey", "model_history_withdrawals_by_user")),
        (LIST_CHANGED, 4, ("user_models_by_time", "model_history_withdrawals_by_time")),
    ],
    ids=["all", "changed"],
)
async def test_a_page_is_read_by_indexes_also_by_a_plan_made_on_empty_tables(
    migrated_database, statement, parameters, indexes
):
    plan = await plan_on_empty_tables(migrated_database, ROLE, statement, parameters)

    assert "Seq Scan" not in plan
    assert [index for index in indexes if index not in plan] == []
    assert re.search(r"Index Cond: \(ref = ", plan)
    # Only the few rows of a page are sorted.
    assert plan.count("Sort Key") == 1
