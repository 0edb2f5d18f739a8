"""Postgres as commands on this machine reach it: a connection, and what is refused to its login. Edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from services.cli.local.stack import Environment
from services.cli.problem import Refused
from shared.runtime.postgres import Connection, connect
from shared.runtime.postgres_errors import NotAllowed, translated_errors
from shared.runtime.settings import DatabaseSettings

_OWNER: Final = (
    "use the owner's login in MODELSWAP_DATABASE_URL: a process's own sees only the tables of that process; "
    "if it is the owner's, complete the restore: a grant is missing"
)


def database_url(environment: Environment) -> str:
    return DatabaseSettings.load(environment).database_url.get_secret_value()


@contextmanager
def login_problems(then: str = _OWNER) -> Iterator[None]:
    """Name the login as the likely cause where Postgres refuses it something; *then* is which one to use."""
    try:
        yield
    except NotAllowed as error:
        raise Refused(str(error), then=then) from error


@asynccontextmanager
async def connected(url: str, *, name: str, then: str = _OWNER) -> AsyncIterator[Connection]:
    """Yield a connection; *name* is what Postgres shows of it, *then* which login to use where this one is refused."""
    connection = await connect(url, application_name=name)
    try:
        with login_problems(then), translated_errors(connection):
            yield connection
    finally:
        await connection.close(timeout=5)
