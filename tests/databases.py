"""A database of one's own on a server that others use as well, dropped afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, Self
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from services.cli.local.roles import LOGINS, login_url, make_roles, password_hash
from services.notifier import migrate as notifier
from services.ops import migrate as ops
from services.state import migrate as state
from shared.runtime import postgres
from shared.runtime.postgres import Pool, acquired, connect_pool

#: Not secrets: these servers live as long as the tests, on loopback. The same for every database of a server.
_PASSWORDS: Final = {login: f"password-of-{login}" for login in LOGINS}
#: Of a password's hash. With Postgres' 4,096, each login takes the client 20 ms of CPU.
_ITERATIONS: Final = 1

#: A change of a table, a function or a right writes a row of the catalog anew, and takes away the old one.
_CATALOG: Final = """
    SELECT count(*), max(xmin::text::bigint) FROM (
        SELECT xmin FROM pg_class UNION ALL SELECT xmin FROM pg_attribute UNION ALL SELECT xmin FROM pg_namespace
        UNION ALL SELECT xmin FROM pg_proc UNION ALL SELECT xmin FROM pg_trigger
        UNION ALL SELECT xmin FROM pg_constraint
        UNION ALL SELECT s.xmin FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
        WHERE d.datname = current_database()
    ) AS catalog
"""
_DISCONNECT_OTHERS: Final = """
    SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
#: An empty one has 9 MB.
_HAS_GROWN: Final = "SELECT pg_database_size(current_database()) > 12 * 1024 * 1024"
_RESTART_SEQUENCES: Final = """
    SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false) FROM pg_sequences
    WHERE schemaname IN ('state', 'ops', 'notifier')
"""
_MISCOUNT: Final = """
    UPDATE pg_class SET reltuples = 1, relpages = 2000
    WHERE relkind = 'r' AND relnamespace IN ('state'::regnamespace, 'ops'::regnamespace, 'notifier'::regnamespace)
"""


@contextlib.asynccontextmanager
async def empty_database(server_url: str, *, template: str = "template1") -> AsyncIterator[str]:
    """One with nothing in it but what *template* has."""
    name = f"test_{uuid4().hex}"
    # To the copy alone, each of its pages is written to the log as well, which takes six times the CPU. Postgres 14 has
    # no other way than files, and no word for it.
    async with _connected(_without_database(server_url)) as connection:
        how = "STRATEGY file_copy" if connection.get_server_version().major >= 15 else ""
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {how}")
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def new_database(server_url: str, *, is_migrated: bool = True) -> AsyncIterator[str]:
    """One with the roles and tables of the services."""
    async with empty_database(server_url) as url:
        await make_roles(_without_database(url), _PASSWORDS, database=_name(url), iterations=_ITERATIONS)
        for migrations in (state.MIGRATIONS, ops.MIGRATIONS, notifier.MIGRATIONS) if is_migrated else ():
            await migrations.apply(logged_in(url, "owner"))
        yield url


async def make_logins_cheap(server_url: str) -> None:
    """Have the tester's password hashed less often; for a server of our own only."""
    login = urlsplit(server_url)
    hashed = password_hash(login.password or "", _ITERATIONS)
    await _execute(server_url, f"ALTER ROLE {login.username} PASSWORD '{hashed}'")


def logged_in(url: str, login: str) -> str:
    """Return *url* for a login ("owner", "state" or "ops") instead of the tester's."""
    return login_url(url, login, _PASSWORDS[login], database=_name(url))


def copy_of(url: str) -> contextlib.AbstractAsyncContextManager[str]:
    """One with what the database at *url* has, to which nobody may be connected. Faster than migrating a new one."""
    return empty_database(url, template=_name(url))


class Copies:
    """
    Lends a copy of the database at *template_url* to one test after the other.

    To delete the rows takes a hundredth of the time of another copy. A copy whose tables, functions or rights were
    changed, or that has grown, is thrown away.
    """

    def __init__(self, template_url: str) -> None:
        self._template_url = template_url
        self._kept = contextlib.AsyncExitStack()
        self._emptied_url: str | None = None
        self._connection: asyncpg.Connection | None = None
        self._as_new: asyncpg.Record | None = None
        self._rows: dict[str, list[tuple[object, ...]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kept.aclose()

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[str]:
        """One with the rows of the template; afterwards all connections to it are closed."""
        url, self._emptied_url = self._emptied_url or await self._copy(), None
        try:
            yield url
        finally:
            if await self._emptied():
                self._emptied_url = url
            else:
                await self._kept.aclose()

    async def _copy(self) -> str:
        url = await self._kept.enter_async_context(copy_of(self._template_url))
        # Kept as long as the copy: to connect takes as long as to delete the rows.
        connection = self._connection = await self._kept.enter_async_context(_connected(url))
        self._as_new = await connection.fetchrow(_CATALOG)
        for table in await _tables(connection):
            rows = await connection.fetch(f"SELECT * FROM {table}")
            self._rows[table] = [tuple(row) for row in rows]
        # Neither foreign keys nor triggers object.
        await connection.execute("SET session_replication_role = replica")
        return url

    async def _emptied(self) -> bool:
        """Bring back the rows of the template; False if more than rows may have been changed."""
        connection = self._connection
        if connection is None or connection.is_closed():  # a test has ended all sessions
            return False
        await connection.execute(_DISCONNECT_OTHERS)
        if await connection.fetchrow(_CATALOG) != self._as_new or await connection.fetchval(_HAS_GROWN):
            return False
        await connection.execute(";".join((*(f"DELETE FROM {table}" for table in self._rows), _RESTART_SEQUENCES)))
        for table, rows in self._rows.items():
            if rows:
                schema, _, name = table.partition(".")
                await connection.copy_records_to_table(name, schema_name=schema, records=rows)
        return True


async def refuse(url: str, change: str, when: str) -> None:
    """Have the database at *url* refuse a *change*, such as ``DELETE ON ops.letters``, of those rows."""
    async with _connected(url) as connection:
        await connection.execute(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = '23514'; END $$;
            CREATE TRIGGER refuse BEFORE {change} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse();
        """)


async def _tables(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('state', 'ops', 'notifier')"
    )
    return [f"{row['schemaname']}.{row['tablename']}" for row in rows]


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    # Not to the database at *url*: one that is copied or dropped must be left alone.
    async with _connected(_without_database(url)) as connection:
        await connection.execute(statement)


def _without_database(url: str) -> str:
    return urlsplit(url)._replace(path="/postgres").geturl()


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@contextlib.asynccontextmanager
async def opened_pool(url: str, *, role: str, plans_once: bool = False, max_size: int = 20) -> AsyncIterator[Pool]:
    """
    A pool as the services have it, but patient: on a busy machine, one statement may take as long as theirs may.

    There is a connection for each of many that ask at once.
    """
    patience = dict.fromkeys(("statement_timeout", "lock_timeout"), "60000")
    with patch.object(postgres, "_ACQUIRE_SECONDS", 60.0):
        with patch.object(postgres, "_COMMAND_SECONDS", 120.0), patch.dict(postgres._SESSION, patience):
            pool = await connect_pool(
                url, application_name="test", role=role, plans_once=plans_once, min_size=1, max_size=max_size
            )
        try:
            yield pool
        finally:
            pool.terminate()


async def plan_on_empty_tables(
    migrated_database: str, role: str, statement: str, parameters: int, *, are_miscounted: bool = False
) -> str:
    """
    The plan that Postgres makes for any values of the *parameters*, while nothing is known of the tables.

    Miscounted ones are large, and said to have a row: a VACUUM came by before those who filled them committed.
    """
    # Not a lent database: Postgres may have counted rows of other tests in it.
    async with copy_of(migrated_database) as url:
        if are_miscounted:
            async with _connected(url) as owner:
                await owner.execute(_MISCOUNT)
        pool = await connect_pool(url, application_name="test", role=role, plans_once=True, min_size=1, max_size=1)
        async with acquired(pool) as connection:
            await connection.execute(f"PREPARE statement AS {statement}")
            lines = await connection.fetch(f"EXPLAIN EXECUTE statement ({', '.join(['NULL'] * parameters)})")
        pool.terminate()
    return "\n".join(line[0] for line in lines)
