"""How is Postgres reached, and what does its failure mean?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr

from services.state.migrate import MIGRATIONS
from services.state.store import ROLE
from shared.contract.errors import DependencyDown, PermanentError, TransientError
from shared.runtime.database import opened_database
from shared.runtime.postgres import Connection, Pool, acquired, connect_pool, in_transaction
from shared.runtime.postgres_errors import Conflict, Damaged, Locked, MixedUp, NotAllowed, NotReady, TooSlow, classify
from shared.runtime.settings import DatabaseSettings
from tests.state import Wire, connected


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=2)
    yield pool
    pool.terminate()


@pytest.mark.parametrize(
    ("sqlstates", "meaning"),
    [
        ("40001 40P01 0A000", Conflict),
        ("55P03", Locked),
        ("08000 08003 08006 53100 53200 53300 57P01 57P02 57P03 25006 25P02 25P03 28P01 3D000", DependencyDown),
        ("57014", TooSlow),
        ("3F000 42601 42703 42704 42804 42883 42P01 42P10", NotReady),
        ("42501", NotAllowed),
        ("22001 22021 22P05 23502 23503 23505 23514 54000", PermanentError),
        ("58000 58030 58P01 XX001 XX002", Damaged),
        ("XX000 P0001", TransientError),
    ],
)
def test_the_state_says_who_can_heal_it(sqlstates, meaning):
    errors = [asyncpg.PostgresError.new({"C": state, "M": "no"}) for state in sqlstates.split()]

    assert {type(classify(error)) for error in errors} == {meaning}


@pytest.mark.parametrize(
    ("sqlstates", "source", "meaning"),
    [
        ("26000 34000 42P03 42P05", "FetchPreparedStatement", MixedUp),
        ("22P03 54000", "array_recv", MixedUp),
        ("08P01", "exec_bind_message", DependencyDown),
        ("22P03 54000", "_bt_check_third_page", PermanentError),
    ],
)
def test_a_mixed_up_session_is_no_fault_of_the_message(sqlstates, source, meaning):
    errors = [asyncpg.PostgresError.new({"C": state, "M": "no", "R": source}) for state in sqlstates.split()]

    assert {type(classify(error)) for error in errors} == {meaning}
    assert all(isinstance(classify(error), DependencyDown) for error in errors) == issubclass(meaning, DependencyDown)


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError(), ConnectionResetError()])
def test_a_wire_that_breaks_is_a_dependency_that_is_down(error):
    assert isinstance(classify(error), DependencyDown)


@pytest.mark.parametrize("error", [asyncpg.InterfaceError("closed"), asyncpg.InternalClientError("cannot switch")])
async def test_library_errors_on_a_lost_connection_are_dependency_down(pool, error):
    async with acquired(pool) as connection:
        while_open = classify(error, connection)
        await connection.close()
        once_closed = classify(error, connection)

    assert [type(while_open), type(once_closed), type(classify(error))] == [
        TransientError,
        DependencyDown,
        DependencyDown,
    ]


async def test_a_value_that_no_column_takes_is_permanent(pool):
    with pytest.raises(PermanentError):
        await in_transaction(pool, lambda connection: connection.execute("SELECT $1::int", 2**40))


async def test_conflicts_are_retried_at_once_but_not_for_ever(pool):
    attempts = []

    async def meet(_: Connection) -> None:
        attempts.append(1)
        raise asyncpg.DeadlockDetectedError("they met")

    with pytest.raises(Conflict):
        await in_transaction(pool, meet)

    assert len(attempts) == 3


async def test_a_lock_that_another_one_keeps_is_a_dependency_that_is_down(pool, database_url):
    attempts = []

    async def read(connection: Connection) -> None:
        attempts.append(1)
        await connection.execute("SET LOCAL lock_timeout = 10")
        await connection.execute("SELECT FROM state.trainings")

    async with connected(database_url) as owner, owner.transaction():
        await owner.execute("LOCK TABLE state.trainings")
        with pytest.raises(TooSlow, match="lock timeout"):
            await in_transaction(pool, read)

    assert len(attempts) == 3


async def test_work_that_failed_leaves_nothing_behind(pool):
    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO state.users (user_id, next_generation) VALUES ('ada', 2)")
        raise PermanentError("no")

    with pytest.raises(PermanentError):
        await in_transaction(pool, work)

    async with acquired(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM state.users") == 0


async def test_cancelled_work_leaves_the_connection_usable(pool):
    begun = asyncio.Event()

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO state.users (user_id, next_generation) VALUES ('ada', 2)")
        begun.set()
        await connection.execute("SELECT pg_sleep(60)")

    working = asyncio.create_task(in_transaction(pool, work))
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    async with acquired(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM state.users") == 0


async def test_every_session_acts_in_the_role_and_has_its_limits(pool):
    async def ask(connection: Connection) -> list[str]:
        names = ("role", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")
        return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]

    first = await in_transaction(pool, ask)
    # Whatever a session was told, the next one to borrow it finds it as it was.
    async with acquired(pool) as connection:
        await connection.execute("RESET ALL")
    again = await in_transaction(pool, ask)

    assert first == again == [ROLE, "5s", "3s", "7s", "UTC"]


async def test_a_plan_that_a_migration_made_stale_is_made_anew(pool, database_url):
    async def ask(connection: Connection) -> int:
        return len(await connection.fetch("SELECT * FROM state.users"))

    await in_transaction(pool, ask)
    async with connected(database_url) as owner:
        await owner.execute("ALTER TABLE state.users ADD COLUMN nickname text")

    assert await in_transaction(pool, ask) == 0


async def test_nobody_gets_in_with_a_role_that_is_not_there_yet(database_url):
    with pytest.raises(DependencyDown, match="nobody_s_role"):
        await connect_pool(database_url, application_name="test", role="nobody_s_role", min_size=1)


async def test_a_pool_lets_work_go_on_when_its_connections_were_cut(database_url):
    async with Wire(database_url) as wire:
        pool = await connect_pool(wire.url, application_name="test", role=ROLE, min_size=2, max_size=2)
        wire.cut()

        answers: list[int] = []
        while answers[-1:] != [1]:
            try:
                answers.append(await in_transaction(pool, lambda connection: connection.fetchval("SELECT 1")))
            except DependencyDown:
                answers.append(0)

        pool.terminate()
    assert len(answers) <= 3


async def test_a_stop_does_not_wait_for_a_silent_postgres(database_url, monkeypatch):
    # A query alone would last ten minutes, and its end as many.
    monkeypatch.setattr("shared.runtime.postgres._COMMAND_SECONDS", 600.0)
    stopping = asyncio.Event()
    async with Wire(database_url) as wire:
        settings = DatabaseSettings(database_url=SecretStr(wire.url), drain_seconds=0.1)
        opened = opened_database(settings, service="test", role=ROLE, migrations=MIGRATIONS, stopping=stopping)

        async with asyncio.timeout(60), opened as pool:
            assert pool is not None
            wire.silence()
            asking = asyncio.create_task(ask(pool))
            stopping.set()
            with pytest.raises(DependencyDown):
                await asking


async def ask(pool: Pool) -> None:
    async with acquired(pool) as connection:
        await connection.fetchval("SELECT 1")


async def test_pool_that_plans_once_makes_no_custom_plan(database_url):
    pool = await connect_pool(database_url, application_name="test", role=ROLE, plans_once=True, min_size=1, max_size=1)
    async with acquired(pool) as connection:
        for user_id in ("ada", "bob"):
            await connection.fetch("SELECT FROM state.users WHERE user_id = $1", user_id)
        plans = await connection.fetch(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%user_id = $1'"
        )
    pool.terminate()

    assert [tuple(row) for row in plans] == [(2, 0)]
