"""How does a database become what the code expects?"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.state.migrate import MIGRATIONS
from services.state.outbox import StoredEvent
from shared.contract.errors import DependencyDown
from shared.runtime.database import check_database, latest_migration
from shared.runtime.migrations import MigrationRefused, Migrations
from shared.runtime.postgres import connect_pool
from tests.state import connected, opened_store

INDEX = "-- no-transaction\nCREATE INDEX CONCURRENTLY shelf_by_id ON shop.shelf (id);"


@pytest.fixture
def migrations(tmp_path: Path) -> Migrations:
    """Two files that make a schema `shop`."""
    (tmp_path / "0001_shelf.sql").write_text("CREATE TABLE shop.shelf (id int PRIMARY KEY);")
    (tmp_path / "0002_fill.sql").write_text("INSERT INTO shop.shelf VALUES (1);")
    return Migrations("shop", tmp_path)


async def count(database_url: str, table: str) -> int:
    async with connected(database_url) as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


async def test_our_own_files_are_applied_once(empty_database_url):
    first = await MIGRATIONS.apply(empty_database_url)
    second = await MIGRATIONS.apply(empty_database_url)

    assert first == [file.name for file in MIGRATIONS.files()]
    assert second == []


async def test_an_upgrade_keeps_estimates_and_pending_events(empty_database_url, tmp_path):
    """From the last version whose GETs stored estimates, and whose relay decoded events."""
    for file in sorted(MIGRATIONS.directory.glob("*.sql"))[:10]:
        shutil.copy(file, tmp_path)
    await Migrations("state", tmp_path).apply(empty_database_url)
    async with connected(empty_database_url) as connection:
        await connection.execute(
            """INSERT INTO state.users (user_id, next_generation) VALUES ('ada', 2);
               INSERT INTO state.trainer_durations VALUES ('acme/trainer', 5, 500, 600, 700);
               INSERT INTO state.trainings
                   (ref, training_id, user_id, generation, destination, trainer, trigger_word, stage, started_at)
               VALUES (gen_random_uuid(), 't1', 'ada', 1, 'acme/ada', 'acme/trainer:' || repeat('a', 64), '', 'running',
                       now() - interval '5 minutes');
               INSERT INTO state.outbox (event_id, user_id, generation, routing_key, headers, body)
               VALUES ('e1', 'ada', 1, 'model.activated.v1', '{"ce-id":"e1"}', '{"training_id":"t1"}')"""
        )

    await MIGRATIONS.apply(empty_database_url)

    published: list[StoredEvent] = []

    async def publish(events: Sequence[StoredEvent]) -> Sequence[None]:
        published.extend(events)
        return [None] * len(events)

    async with opened_store(empty_database_url) as store:
        training = await store.find_training("t1")
        await store.relay(publish, limit=9)
    assert training is not None
    assert 45 <= training.progress < 50
    assert published == [
        StoredEvent("modelswap.events", "model.activated.v1", "t1", "ada", {"ce-id": "e1"}, b'{"training_id":"t1"}')
    ]


async def test_the_status_says_when_each_file_was_applied(empty_database_url):
    before = await MIGRATIONS.status(empty_database_url)
    await MIGRATIONS.apply(empty_database_url)
    after = await MIGRATIONS.status(empty_database_url)

    assert {applied_at for _, applied_at in before} == {None}
    assert [name for name, applied_at in after if applied_at is not None] == [name for name, _ in before]


async def test_eight_at_once_apply_each_file_once(empty_database_url, migrations):
    applied = await asyncio.gather(*(migrations.apply(empty_database_url) for _ in range(8)))

    assert sorted(applied, key=len) == [[]] * 7 + [["0001_shelf", "0002_fill"]]
    assert await count(empty_database_url, "shop.shelf") == 1


async def test_a_file_that_was_edited_afterwards_is_refused(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0001_shelf.sql").write_text("CREATE TABLE shop.shelf (id bigint PRIMARY KEY);")

    with pytest.raises(MigrationRefused, match=r"0001_shelf\.sql was edited"):
        await migrations.apply(empty_database_url)
    with pytest.raises(MigrationRefused, match=r"0001_shelf\.sql was edited"):
        await migrations.status(empty_database_url)


@pytest.mark.parametrize("name", ["0004_later.sql", "0003-wrong.sql", "third.sql", "0002_twice.sql"])
async def test_gaps_doubles_and_other_names_are_refused(empty_database_url, migrations, name):
    (migrations.directory / name).write_text("SELECT 1;")

    with pytest.raises(MigrationRefused, match="no gaps"):
        await migrations.apply(empty_database_url)


async def test_a_file_that_slipped_in_before_an_applied_one_is_refused(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    async with connected(empty_database_url) as connection:
        await connection.execute("DELETE FROM shop.migrations WHERE number = 1")

    with pytest.raises(MigrationRefused, match=r"0001_shelf\.sql is not applied"):
        await migrations.apply(empty_database_url)


async def test_a_file_that_fails_changes_nothing_and_is_named(empty_database_url, migrations):
    (migrations.directory / "0003_break.sql").write_text("INSERT INTO shop.shelf VALUES (2); SELECT nonsense;")

    with pytest.raises(MigrationRefused, match=r"0003_break\.sql was not applied"):
        await migrations.apply(empty_database_url)

    assert await count(empty_database_url, "shop.shelf") == 1
    assert [name for name, applied_at in await migrations.status(empty_database_url) if applied_at is None] == [
        "0003_break"
    ]


async def test_an_index_can_be_made_while_others_write(empty_database_url, migrations):
    (migrations.directory / "0003_index.sql").write_text(INDEX)

    applied = await asyncio.gather(*(migrations.apply(empty_database_url) for _ in range(4)))

    assert max(applied, key=len) == ["0001_shelf", "0002_fill", "0003_index"]


async def test_an_index_whose_making_was_cut_off_is_made_anew(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0003_index.sql").write_text(INDEX.replace("INDEX", "UNIQUE INDEX", 1))
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.shelf_by_id'::regclass"
    async with connected(empty_database_url) as connection:
        await connection.execute("ALTER TABLE shop.shelf DROP CONSTRAINT shelf_pkey; INSERT INTO shop.shelf VALUES (1)")
        with pytest.raises(MigrationRefused, match="0003_index"):
            await migrations.apply(empty_database_url)
        left = await connection.fetchval(is_valid)
        await connection.execute("DELETE FROM shop.shelf")

        applied = await migrations.apply(empty_database_url)

        made = await connection.fetchval(is_valid)
    assert (left, applied, made) == (False, ["0003_index"], True)


async def test_an_index_that_was_made_but_not_recorded_is_recorded(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0003_index.sql").write_text(INDEX)
    async with connected(empty_database_url) as connection:
        await connection.execute(INDEX)

    assert await migrations.apply(empty_database_url) == ["0003_index"]
    assert await migrations.apply(empty_database_url) == []


async def test_an_older_version_runs_beside_a_newer_one(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0002_fill.sql").unlink()

    assert await migrations.apply(empty_database_url) == []


async def test_a_database_that_does_not_answer_is_a_dependency_that_is_down(unused_tcp_port, migrations):
    with pytest.raises(DependencyDown):
        await migrations.apply(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nowhere")


async def test_a_database_that_was_never_migrated_is_told_from_one_that_was(empty_database_url, migrations):
    pool = await connect_pool(empty_database_url, application_name="test", min_size=1, max_size=1)
    try:
        before = [await latest_migration(pool, migrations), await check_database(pool, migrations)]
        await migrations.apply(empty_database_url)
        after = [await latest_migration(pool, migrations), await check_database(pool, migrations)]
    finally:
        pool.terminate()

    assert before == [0, "migration 0 of 2 of shop: `modelswap db migrate`"]
    assert after == [2, None]
