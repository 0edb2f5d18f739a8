"""
Migrations: numbered SQL files, each applied once, forward only. Edge.

Each file is one transaction, unless its first line is ``-- no-transaction``; such a file holds exactly one statement
(``CREATE`` or ``DROP INDEX CONCURRENTLY …``), and is retried if it was interrupted. Applied files are recorded with
their digest, so a file that was edited afterwards is refused. Many processes may run this at once: one applies, the
others wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import asyncpg

from shared.contract.errors import ModelswapError, PermanentError
from shared.runtime.postgres import Connection, connect
from shared.runtime.postgres_errors import NotReady, translated_errors

_FILE_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql", re.ASCII)
_NO_TRANSACTION: Final = "-- no-transaction"
_POLL_SECONDS: Final = 0.1
#: All invalid indexes are ours: only migrations create indexes in this schema, and we hold the lock.
_INVALID_INDEXES: Final = """
    SELECT i.indexrelid::regclass::text AS name
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND c.relnamespace = to_regnamespace($1)
"""


class MigrationRefused(ModelswapError):
    """The files and the database contradict each other; nothing was changed."""

    code = "migration_refused"


class DatabaseTooOld(MigrationRefused):
    """Other files created the database: those of a version before 0.1.0, which this one can not upgrade."""

    code = "database_too_old"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Applied:
    """The database's record of an applied file."""

    name: str
    digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Migrations:
    """The migrations of one *schema*, the files of *directory*."""

    schema: str
    directory: Path

    async def apply(self, database_url: str) -> list[str]:
        """
        Bring the database up to date; return the names of the files that were applied.

        Raises:
            DatabaseTooOld: if other files created the database.
            MigrationRefused: if a file was edited after it was applied, or a number is missing.
            DependencyDown: if Postgres does not answer, or the login may not do that.

        """
        files = self.files()
        async with _connection(database_url) as connection:
            await self._lock(connection)
            await self._make_table(connection)
            pending = self._pending(files, await self._applied(connection))
            for migration in pending:
                await self._apply_one(connection, migration)
        return [migration.name for migration in pending]

    async def status(self, database_url: str) -> list[tuple[str, datetime | None]]:
        """
        Return the name of every file, and when it was applied or None; change nothing.

        Raises:
            MigrationRefused, DependencyDown: as `apply`.

        """
        files = self.files()
        async with _connection(database_url) as connection:
            applied = await self._applied(connection)
        self._pending(files, applied)
        return [(file.name, applied[file.number].at if file.number in applied else None) for file in files]

    def files(self) -> Sequence[Migration]:
        """Read the files, in order."""
        found = sorted(self.directory.glob("*.sql"))
        for expected, path in enumerate(found, start=1):
            match = _FILE_NAME.fullmatch(path.name)
            if match is None or int(match[1]) != expected:
                raise MigrationRefused(
                    f"{path.name}: expected a file {expected:04}_what_it_does.sql; no gaps, no others"
                )
        return [
            Migration(number, path.stem, path.read_text(encoding="utf-8")) for number, path in enumerate(found, start=1)
        ]

    @property
    def latest(self) -> int:
        """The number of the last file."""
        return len(self.files())

    async def latest_applied(self, connection: Connection) -> int:
        """
        Return the number of the last applied file; 0 if there is none.

        Raises:
            DatabaseTooOld: if other files created the database.

        """
        applied = await self._applied(connection)
        self._check_names(self.files(), applied)
        return max(applied, default=0)

    @property
    def _table(self) -> str:
        return f"{self.schema}.migrations"

    async def _lock(self, connection: Connection) -> None:
        # Polled: a statement that waits for a lock holds a snapshot, and the lock's holder would wait for that snapshot
        # in CREATE INDEX CONCURRENTLY.
        take = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
        while not await connection.fetchval(take, self._table):  # noqa: ASYNC110 (the event is in another process)
            await asyncio.sleep(_POLL_SECONDS)

    async def _make_table(self, connection: Connection) -> None:
        await connection.execute(
            f"""
            CREATE SCHEMA IF NOT EXISTS {self.schema};
            CREATE TABLE IF NOT EXISTS {self._table} (
                number     integer PRIMARY KEY,
                name       text NOT NULL,
                digest     text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
            )
            """
        )

    async def _applied(self, connection: Connection) -> dict[int, _Applied]:
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", self._table):
            return {}
        query = f"SELECT number, name, digest, applied_at FROM {self._table}"  # noqa: S608 (our own name)
        rows = await connection.fetch(query)
        return {row["number"]: _Applied(row["name"], row["digest"], row["applied_at"]) for row in rows}

    async def _apply_one(self, connection: Connection, migration: Migration) -> None:
        try:
            with translated_errors(connection):
                if migration.sql.startswith(_NO_TRANSACTION):
                    await self._change_index(connection, migration.sql)
                    await self._record(connection, migration)
                else:
                    async with connection.transaction():
                        await connection.execute(migration.sql)
                        await self._record(connection, migration)
        except (PermanentError, NotReady) as error:
            raise MigrationRefused(f"{migration.name}.sql was not applied: {error}") from error

    async def _change_index(self, connection: Connection, sql: str) -> None:
        """Create or drop the index, even if an interrupted attempt left it invalid or unrecorded."""
        left = await connection.fetch(_INVALID_INDEXES, self.schema)
        # It waits for transactions with an old snapshot, such as a backup, and blocks no other.
        await connection.execute("SET lock_timeout = 0")
        for index in left:
            await connection.execute(f"DROP INDEX CONCURRENTLY {index['name']}")
        with suppress(asyncpg.DuplicateTableError):
            await connection.execute(sql)
        await connection.execute("RESET lock_timeout")

    async def _record(self, connection: Connection, migration: Migration) -> None:
        await connection.execute(
            f"INSERT INTO {self._table} (number, name, digest) VALUES ($1, $2, $3)",  # noqa: S608 (our own name)
            migration.number,
            migration.name,
            migration.digest,
        )

    def _pending(self, files: Sequence[Migration], applied: Mapping[int, _Applied]) -> Sequence[Migration]:
        self._check_names(files, applied)
        # Numbers beyond our files belong to a newer version. Migrations only add, so this version can run beside it.
        done = [file for file in files if file.number in applied]
        for file in done:
            if applied[file.number].digest != file.digest:
                raise MigrationRefused(f"{file.name}.sql was edited after it was applied: write a new file instead")
        if done != files[: len(done)]:
            raise MigrationRefused(f"{files[len(done) - 1].name}.sql is not applied, but a later one is")
        return files[len(done) :]

    def _check_names(self, files: Sequence[Migration], applied: Mapping[int, _Applied]) -> None:
        for file in files:
            if file.number in applied and (name := applied[file.number].name) != file.name:
                raise DatabaseTooOld(
                    f"the tables of schema {self.schema} are from a version before 0.1.0 ({name} is applied, not "
                    f"{file.name}), which can not be upgraded"
                )


@asynccontextmanager
async def _connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await connect(database_url, application_name="modelswap migrate")
    try:
        with translated_errors(connection):
            yield connection
    finally:
        # Ending the session releases its lock.
        await connection.close(timeout=5)
