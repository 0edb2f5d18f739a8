"""
Connects to Postgres, and runs transactions. Edge.

Sessions must not be shared: they act as a role, have limits, hold prepared statements and, during migrations, an
advisory lock. A pooler that gives a session to another client after each transaction (PgBouncer's transaction mode)
breaks all of these; statements could even run with the parameters of another one. So `connect` and `connect_pool`
refuse such a pooler where they can detect it, with advice in the error (2026-11).

A COMMIT whose response is lost may have been executed, so all work in transactions must be idempotent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeAlias, TypeVar

import asyncpg
from asyncpg.exceptions import ClientConfigurationError
from asyncpg.pool import PoolConnectionProxy

from shared.contract.errors import DependencyDown
from shared.runtime.postgres_errors import ERRORS, Conflict, Locked, TooSlow, UnusableAddress, say, translated_errors
from shared.runtime.postgres_servers import Servers
from shared.runtime.statements import trace_statements
from shared.runtime.tls import say_tls

T = TypeVar("T")

Record: TypeAlias = asyncpg.Record
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

#: How often work is retried at once after a conflict.
_AGAIN_AT_ONCE: Final = 2
_ACQUIRE_SECONDS: Final = 3.0
#: A query over a dead network costs twice this: once for itself, once for cleaning up.
_COMMAND_SECONDS: Final = 8.0
_IDLE_SECONDS: Final = 60.0
#: Postgres ends a transaction in which nothing is asked for so long. A process that is frozen in one holds its locks,
#: and so delays the others, for as long.
IDLE_IN_TRANSACTION_SECONDS: Final = 7.0
#: The longest wait for the broker's confirms within a transaction, or while a claim holds.
CONFIRM_SECONDS: Final = 6.0
#: Set at the start of a session, so that a RESET does not undo them.
_SESSION: Final = {
    "statement_timeout": "5000",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS * 1000:.0f}",
    "timezone": "UTC",
    # Compiling costs more than running our statements.
    "jit": "off",
    # Our statements use indexes. A plan that is made while the tables are empty must still be good when they are large.
    "enable_seqscan": "off",
}

#: The server takes no more writes, or is away: after a failover, another one takes them.
_LEFT: Final = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    OSError,
)
_POOLER: Final = (
    "MODELSWAP_DATABASE_URL leads to a pooler that does not keep sessions, such as PgBouncer in transaction mode: "
    "give the address of Postgres itself"
)


async def connect_pool(
    url: str,
    *,
    application_name: str,
    role: str | None = None,
    plans_once: bool = False,
    min_size: int = 2,
    max_size: int = 8,
) -> Pool:
    """
    Open connections to *url*.

    With *plans_once*, Postgres plans each statement once in a session, for any parameters. Otherwise it may plan it
    anew for each execution, which for our largest statements takes longer than executing them.

    With a *role*, every session acts as that role, whatever user the URL logs in as: even a superuser has only the
    role's privileges.

    Raises:
        DependencyDown: if Postgres does not answer, or refuses the login.
        UnusableAddress: if *url* cannot be used.

    """
    session = {**_SESSION, "application_name": application_name}
    if role is not None:
        session["role"] = role
    if plans_once:
        session["plan_cache_mode"] = "force_generic_plan"
    with _connecting(url):
        pool = await asyncpg.create_pool(
            connect=Servers(url).connect,
            min_size=min_size,
            max_size=max_size,
            command_timeout=_COMMAND_SECONDS,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            server_settings=session,
            reset=_leave_as_is,
            init=trace_statements,
        )
        try:
            async with pool.acquire() as one:
                await _check_session(one, session)
                if max_size > 1:
                    async with pool.acquire() as other:
                        await _check_sharing(one, other)
        except BaseException:
            pool.terminate()
            raise
    return pool


async def connect(url: str, *, application_name: str) -> asyncpg.Connection[asyncpg.Record]:
    """
    Open one connection to *url*, with the privileges of its user and no statement timeout.

    Raises:
        DependencyDown: if Postgres does not answer, or refuses the login.
        UnusableAddress: if *url* cannot be used.

    """
    # A statement that waits for a table's lock blocks all later ones, so the wait is limited.
    session = {"application_name": application_name, "timezone": "UTC", "lock_timeout": "10000"}
    with _connecting(url):
        connection = await Servers(url).connect(server_settings=session)
        try:
            await _check_session(connection, session)
        except BaseException:
            connection.terminate()
            raise
    return connection


async def _check_session(connection: Connection, asked: Mapping[str, str]) -> None:
    """Check that the session has the requested settings: some poolers ignore startup parameters."""
    found = await connection.fetchrow(
        """
        SELECT current_setting('role') AS role, setting AS lock_timeout FROM pg_settings WHERE name = 'lock_timeout'
        """
    )
    if found is None or any(found[name] != asked[name] for name in ("role", "lock_timeout") if name in asked):
        raise UnusableAddress(f"{_POOLER} ({found and dict(found)} instead of what was asked for)")


async def _check_sharing(one: Connection, other: Connection) -> None:
    """Check that no pooler gives the session of *one* to *other*."""
    if await one.fetchval("SELECT pg_backend_pid()") == one.get_server_pid():
        return  # Postgres itself
    ask = "SELECT current_setting('modelswap.session', true)"
    try:
        await one.execute("SET modelswap.session = 'one'")
        async with other.transaction():
            # A pooler would give this session to *other*, or give *one* another session meanwhile.
            shared = await other.fetchval(ask) == "one" or await one.fetchval(ask) != "one"
    except asyncpg.PostgresError as error:
        raise UnusableAddress(f"{_POOLER} ({say(error)})") from error
    if shared:
        raise UnusableAddress(f"{_POOLER} (two connections are one session)")


@contextmanager
def _connecting(url: str) -> Iterator[None]:
    # No message is the cause of a failure here; a missing role, for instance, is created by the first migration.
    try:
        yield
    except ClientConfigurationError as error:
        raise UnusableAddress(f"MODELSWAP_DATABASE_URL can not be used: {error}") from error
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise DependencyDown(f"no connection to Postgres: {say(error)}", code="database_down") from error
        raise UnusableAddress(f"{_POOLER} ({error})") from error
    except ERRORS as error:
        said = say_tls("Postgres", error) or _say_lost(error, url)
        raise DependencyDown(f"no connection to Postgres: {said}", code="database_down") from error


def _say_lost(error: Exception, url: str) -> str:
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and "sslcert=" in url:
        # Our certificate is checked last (TLS 1.3), and the reset of the closed connection can overtake the alert.
        return f"{say(error)}; Postgres may not accept our client certificate"
    return say(error)


def confirm_seconds(publish_timeout_seconds: float) -> float:
    """Return how long to wait for the broker's confirms in a process that publishes within transactions or claims."""
    return min(publish_timeout_seconds, CONFIRM_SECONDS)


async def in_transaction(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """
    Do *work* in one transaction; after a `Conflict` retry it, at most twice.

    Raises:
        TooSlow: if it could not get a lock each time.
        ModelswapError: the database's error, as translated by `classify`. Nothing was committed, unless the connection
            was lost during the COMMIT.

    """
    for _ in range(_AGAIN_AT_ONCE):
        try:
            return await _once(pool, work)
        except Conflict:
            continue
    try:
        return await _once(pool, work)
    except Locked as error:
        # It may be a lock of the whole table, which no transaction gets now.
        raise TooSlow(str(error)) from error


async def _once(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    async with acquired(pool) as connection, connection.transaction():
        return await work(connection)


@asynccontextmanager
async def acquired(pool: Pool) -> AsyncIterator[Connection]:
    """Borrow a connection, and translate its errors."""
    with translated_errors():
        async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
            with translated_errors(connection):
                try:
                    yield connection
                except _LEFT:
                    await pool.expire_connections()  # the others are to that server, too
                    raise


async def _leave_as_is(_: object) -> None:
    """Skip the pool's reset of a returned connection: no code changes a session, and it costs a round trip."""
