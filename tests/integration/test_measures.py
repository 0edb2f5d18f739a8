"""Gauges that are read from the database, against a real Postgres."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from math import isnan
from pathlib import Path

import pytest

from services.ops import measures as ops
from services.state import measures as state
from services.state.overview import StageCount
from services.state.rollback import RollbackOrder, WithdrawalOrder
from services.state.store import Store
from shared.runtime import telemetry
from shared.runtime.clock import now
from shared.runtime.periodic import keep_measuring
from tests.counts import counted, observed
from tests.replays import archive_many, opened_repairs, order, rows
from tests.state import Wire, execute, model_of, opened_store, ready, registration, started, succeeded

RUNBOOK = (Path(__file__).parents[2] / "deploy/runbook.md").read_text()
WITHOUT_LABELS = (
    telemetry.users_without_model,
    telemetry.outbox_pending,
    telemetry.outbox_oldest,
    telemetry.dead_letters_oldest,
)
WITH_LABELS = (telemetry.trainings, telemetry.dead_letters, telemetry.replays, telemetry.replay_letters)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


async def swap(store: Store, user: str) -> None:
    await store.adopt(registration(user, f"t-{user}"))
    assert await store.apply([succeeded(f"t-{user}"), ready(f"t-{user}")]) == [None, None]


@pytest.mark.parametrize("together", [True, False])
async def test_a_swap_is_timed_from_the_receipt_of_its_webhook(store, together):
    """Also if the model comes in another batch, and says nothing of that time."""
    await store.adopt(registration("ada", "t1"))
    report = replace(succeeded("t1"), time=now() - timedelta(seconds=30))
    before = observed(telemetry.swap_seconds)[()]

    if together:
        await store.apply([report, ready("t1")])
    else:
        await store.apply([report])
        await store.apply([ready("t1")])

    times, total = observed(telemetry.swap_seconds)[()]
    assert times == before.times + 1
    assert 30 <= total - before.total < 60


async def test_state_measures_its_trainings_and_its_outbox(store, database_url):
    measures = state.Measures(store)
    await measures.measure()
    assert (counted(telemetry.outbox_pending)[()], counted(telemetry.outbox_oldest)[()]) == (0, 0)

    await swap(store, "ada")
    await store.adopt(registration("bob", "t2"))
    await store.apply([started("t2")])
    await execute(database_url, "UPDATE state.outbox SET created_at = now() - interval '100 s'")
    await measures.measure()

    assert {labels for labels, value in counted(telemetry.trainings).items() if value} == {("active",), ("running",)}
    assert counted(telemetry.outbox_pending)[()] == 1
    assert 100 <= counted(telemetry.outbox_oldest)[()] < 200


async def test_events_that_were_set_aside_are_not_pending(store, database_url):
    await swap(store, "ada")
    await execute(database_url, "UPDATE state.outbox SET set_aside_at = now(), set_aside_reason = 'too large'")

    await state.Measures(store).measure()

    assert counted(telemetry.outbox_pending)[()] == 0


async def test_a_user_who_lost_a_model_is_counted(store, database_url):
    """The database refuses that, so its triggers are off here, as in a restore that went wrong."""
    for user in ("ada", "bob", "cleo", "dora"):
        await swap(store, user)
    await store.withdraw(WithdrawalOrder("bob", "bad", "eve"))
    await store.adopt(registration("never-had-one", "t9"))
    await execute(database_url, "UPDATE state.users SET deleted_at = now() WHERE user_id = 'cleo'")
    await execute(database_url, "DELETE FROM state.user_models WHERE user_id = 'cleo'")
    measures = state.Measures(store)
    await measures.measure()
    assert counted(telemetry.users_without_model)[()] == 0

    take = "SET LOCAL session_replication_role = replica; DELETE FROM state.user_models WHERE user_id = 'dora'"
    await execute(database_url, take)
    await measures.measure()

    assert counted(telemetry.users_without_model)[()] == 1

    # As the runbook says.
    model = model_of("t-dora")
    lost = RUNBOOK.partition("## A user lost a model")[2].partition("\n## ")[0]
    (who,) = re.findall(r"```sql\n(.*?)```", lost, re.DOTALL)
    assert await rows(database_url, who) == [("dora", 1, str(model))]
    await store.roll_back(RollbackOrder("dora", model, "it was lost", "eve"))
    await measures.measure()
    await measures.measure()
    assert counted(telemetry.users_without_model)[()] == 0


async def test_a_user_is_deleted_as_the_runbook_says(store, database_url):
    await swap(store, "user-42")
    await store.adopt(registration("user-42", "late"))
    await store.withdraw(WithdrawalOrder("user-42", "account closed", "eve"))
    deleted = RUNBOOK.partition("## What is deleted")[2].partition("\n## ")[0]
    (statements,) = re.findall(r"```sql\n(.*?)```", deleted, re.DOTALL)

    await execute(database_url, f"{statements} COMMIT")

    assert await rows(database_url, "SELECT user_id FROM state.users WHERE deleted_at IS NOT NULL") == [("user-42",)]
    assert await store.apply([ready("late")]) == [None]
    assert await store.find_model("user-42") is None
    assert (await store.check_users(after="", limit=10)).without_model == 0


async def test_all_users_are_checked_page_by_page(store, database_url):
    for user in ("ada", "bob", "cleo"):
        await swap(store, user)
    await execute(database_url, "SET LOCAL session_replication_role = replica; DELETE FROM state.user_models")

    first = await store.check_users(after="", limit=2)
    second = await store.check_users(after="bob", limit=2)

    assert (first, second) == ((2, "bob"), (1, None))


class Users:
    """A store whose pages of users are given."""

    def __init__(self, *pages: state.CheckedUsers) -> None:
        self.pages = list(pages)

    async def count_trainings(self) -> list[StageCount]:
        return []

    async def measure_outbox(self) -> state.Backlog:
        return state.Backlog(0, 0.0)

    async def check_users(self, **_: object) -> state.CheckedUsers:
        return self.pages.pop(0)


@pytest.mark.parametrize(
    ("pages", "shown"),
    [
        ([(0, "b")], "nan"),  # not all were looked at
        ([(0, "b"), (0, None)], "0"),
        ([(2, "b")], "2"),
        ([(2, "b"), (1, None)], "3"),
        ([(2, "b"), (1, None), (0, "b")], "3"),  # the last walk's, until this one ends
        ([(2, "b"), (1, None), (0, "b"), (0, None)], "3"),
        ([(2, "b"), (1, None), (0, "b"), (0, None), (0, "b")], "0"),
    ],
)
async def test_the_check_of_all_users_shows_the_worse_walk(pages, shown):
    measures = state.Measures(Users(*(state.CheckedUsers(*page) for page in pages)))

    for _ in pages:
        await measures.measure()

    assert f"{counted(telemetry.users_without_model)[()]:g}" == shown


async def test_ops_measures_dead_letters_and_replays(database_url):
    async with opened_repairs(database_url) as (letters, replays):
        measures = ops.Measures(letters, replays)
        await measures.measure()
        assert (counted(telemetry.dead_letters)[("open",)], counted(telemetry.dead_letters_oldest)[()]) == (0, 0)

        numbers = await archive_many(database_url, 3)
        await execute(database_url, "UPDATE ops.letters SET archived_at = now() - interval '1 hour' * number")
        await replays.create(order(numbers[:1]))
        await measures.measure()

    assert {labels: value for labels, value in counted(telemetry.dead_letters).items() if value} == {
        ("open",): 2,
        ("replaying",): 1,
    }
    # Of the open ones, the one with the higher number came first.
    assert 3 * 3600 <= counted(telemetry.dead_letters_oldest)[()] < 3 * 3600 + 100

    assert counted(telemetry.replays) == {
        ("previewing",): 0,
        ("previewed",): 0,
        ("running",): 1,
        ("paused",): 0,
        ("stopped",): 0,
    }
    assert {labels: value for labels, value in counted(telemetry.replay_letters).items() if value} == {("waiting",): 1}


async def test_while_the_database_is_away_there_are_no_values(database_url):
    stopping = asyncio.Event()
    async with (
        Wire(database_url) as wire,
        opened_store(wire.url) as store,
        opened_repairs(wire.url) as stores,
        asyncio.timeout(60),
        asyncio.TaskGroup() as running,
    ):
        for measures in (state.Measures(store), ops.Measures(*stores)):
            running.create_task(keep_measuring(measures, stopping, every_seconds=0.05))
        await until(lambda: all(counted(each)[()] == 0 for each in WITHOUT_LABELS))
        await until(lambda: all(map(counted, WITH_LABELS)))

        wire.refuse()
        await until(lambda: all(isnan(counted(each)[()]) for each in WITHOUT_LABELS))
        await until(lambda: not any(map(counted, WITH_LABELS)))

        wire.admit()
        await until(lambda: all(counted(each)[()] == 0 for each in WITHOUT_LABELS))
        stopping.set()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)
