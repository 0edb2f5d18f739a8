"""How does a database become what the code expects?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.cli.main import main
from services.state.migrate import MIGRATIONS
from shared.contract.errors import DependencyDown
from shared.runtime.database import check_database
from shared.runtime.migrations import DatabaseTooOld, MigrationRefused, Migrations
from shared.runtime.postgres import connect_pool
from tests.state import connected

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


async def test_a_database_from_before_0_1_0_is_refused(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0001_shelf.sql").rename(migrations.directory / "0001_schema.sql")
    (migrations.directory / "0002_fill.sql").unlink()

    with pytest.raises(DatabaseTooOld, match=r"before 0\.1\.0 \(0001_shelf is applied, not 0001_schema\)"):
        await migrations.apply(empty_database_url)
    with pytest.raises(DatabaseTooOld):
        await migrations.status(empty_database_url)


async def test_no_process_uses_a_database_from_before_0_1_0(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    (migrations.directory / "0001_shelf.sql").rename(migrations.directory / "0001_schema.sql")
    pool = await connect_pool(empty_database_url, application_name="test", min_size=1, max_size=1)
    try:
        refusal = await check_database(pool, migrations)
    finally:
        pool.terminate()

    assert refusal is not None
    assert "which can not be upgraded" in refusal


async def test_db_migrate_explains_a_database_from_before_0_1_0(empty_database_url, monkeypatch, capsys):
    await MIGRATIONS.apply(empty_database_url)
    async with connected(empty_database_url) as connection:
        await connection.execute("UPDATE state.migrations SET name = '0001_schema'")
    monkeypatch.setenv("MODELSWAP_DATABASE_URL", empty_database_url)

    code = await asyncio.to_thread(main, ["db", "migrate"])

    problem, then = capsys.readouterr().err.splitlines()
    assert code == 1
    assert "schema state are from a version before 0.1.0 (0001_schema is applied, not 0001_tables)" in problem
    assert then.startswith("Next: an empty database, then modelswap db migrate")


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


async def test_an_unreachable_database_is_a_dependency_down(unused_tcp_port, migrations):
    with pytest.raises(DependencyDown):
        await migrations.apply(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nowhere")


async def test_an_unmigrated_database_is_recognized(empty_database_url, migrations):
    pool = await connect_pool(empty_database_url, application_name="test", min_size=1, max_size=1)
    try:
        before = await check_database(pool, migrations)
        await migrations.apply(empty_database_url)
        after = await check_database(pool, migrations)
    finally:
        pool.terminate()

    assert before == "migration 0 of 2 of shop: `modelswap db migrate`"
    assert after is None


async def test_missing_grants_are_not_taken_for_a_missing_migration(empty_database_url, migrations):
    await migrations.apply(empty_database_url)
    async with connected(empty_database_url) as owner:
        await owner.execute("CREATE ROLE modelswap_stranger NOLOGIN")
    try:
        pool = await connect_pool(
            empty_database_url, application_name="test", role="modelswap_stranger", min_size=1, max_size=1
        )
        said = await check_database(pool, migrations)
        pool.terminate()
    finally:
        async with connected(empty_database_url) as owner:
            await owner.execute("DROP ROLE modelswap_stranger")

    assert said is not None
    assert "permission denied" in said
