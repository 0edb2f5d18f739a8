"""The roles of docker-compose.yml may do what the services need, and nothing in any other database."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.servers import private_servers

ROLES_SQL = Path(__file__).parents[2] / "deploy/postgres/roles.sql"
PASSWORDS = {f"POSTGRES_{role}_PASSWORD": f"password-of-{role.lower()}" for role in ("OWNER", "STATE", "OPS")}
SERVICES = ("modelswap_state_login", "modelswap_ops_login")


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A Postgres on which roles.sql was run, as the image of docker-compose.yml runs it."""
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("no psql here: apt-get install postgresql-client")
    with private_servers(print, rabbitmq=None) as private:
        url = private.database_url
        for target, arguments in (
            (url, ["-c", "CREATE DATABASE modelswap"]),
            (urlsplit(url)._replace(path="/modelswap").geturl(), ["-f", str(ROLES_SQL)]),
        ):
            command = [psql, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", *arguments, target]
            subprocess.run(command, env={**os.environ, **PASSWORDS}, check=True)
        yield url


@pytest.fixture
async def superuser(server_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("role", SERVICES)
@pytest.mark.parametrize(
    ("database", "privilege", "may"),
    [
        ("modelswap", "CONNECT", True),
        ("modelswap", "TEMPORARY", False),
        ("modelswap", "CREATE", False),
        ("postgres", "CONNECT", False),
        ("postgres", "TEMPORARY", False),
        ("template1", "CONNECT", False),
    ],
)
async def test_a_service_may_connect_to_its_database_only(superuser, role, database, privilege, may):
    assert may == await superuser.fetchval("SELECT has_database_privilege($1, $2, $3)", role, database, privilege)


@pytest.mark.parametrize("role", ["modelswap_owner", *SERVICES])
async def test_no_role_is_more_than_it_needs(superuser, role):
    row = await superuser.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = $1",
        role,
    )

    assert list(row) == [False] * 5


async def test_a_service_logs_in_with_its_own_password(server_url):
    address = urlsplit(server_url)
    login = f"modelswap_state_login:{PASSWORDS['POSTGRES_STATE_PASSWORD']}@{address.hostname}:{address.port}"

    connection = await asyncpg.connect(address._replace(netloc=login, path="/modelswap").geturl())
    await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(address._replace(netloc=login, path="/postgres").geturl())
