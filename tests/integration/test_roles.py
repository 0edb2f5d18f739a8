"""The roles of the database may do what the services need, and nothing else."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from services.cli.local.roles import LOGINS, PASSWORDS, find_passwords, login_url, make_roles
from services.cli.main import main
from services.cli.problem import Problem
from services.notifier import migrate as notifier
from services.ops import migrate as ops
from services.state import migrate as state
from tests.servers import private_servers

SERVICES = ("state", "ops", "notifier")
GIVEN = {login: f"password-of-{login}" for login in LOGINS}


@dataclass(frozen=True)
class Server:
    """A Postgres with the roles and the tables, and the file to which it logs every statement."""

    url: str
    log: Path

    def login(self, login: str, *, database: str = "modelswap") -> str:
        return login_url(self.url, login, GIVEN[login], database=database)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """For the server, which may run as another user: it can walk there."""
    with tempfile.TemporaryDirectory(prefix="modelswap-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="module")
async def server(folder: Path) -> AsyncIterator[Server]:
    options = {"log_statement": "all"}
    with private_servers(print, rabbitmq=None, state=folder, durable=False, postgres_options=options) as private:
        made = Server(private.database_url, folder / "postgres/log")
        await make_roles(made.url, GIVEN)
        for migrations in (state.MIGRATIONS, ops.MIGRATIONS, notifier.MIGRATIONS):
            await migrations.apply(made.login("owner"))
        yield made


@pytest.fixture
async def superuser(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("login", SERVICES)
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
async def test_a_service_may_connect_to_its_database_only(superuser, login, database, privilege, may):
    found = await superuser.fetchval("SELECT has_database_privilege($1, $2, $3)", LOGINS[login], database, privilege)

    assert found is may


@pytest.mark.parametrize("login", LOGINS)
async def test_no_role_is_more_than_it_needs(superuser, login):
    row = await superuser.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = $1",
        LOGINS[login],
    )

    assert list(row) == [False] * 5


@pytest.mark.parametrize(
    ("login", "statement"),
    [
        *(
            (login, f"CREATE {thing}")
            for login in SERVICES
            for thing in ("TEMP TABLE t ()", "TABLE public.t ()", "ROLE r")
        ),
        *((login, "COPY (SELECT 1) TO PROGRAM 'true'") for login in LOGINS),
        *((login, "SELECT pg_read_file('postgresql.conf')") for login in LOGINS),
        *((login, "SELECT rolpassword FROM pg_authid") for login in LOGINS),
        *(("state", f"SELECT * FROM {table}") for table in ("ops.letters", "ops.audit", "ops.replays")),
        *(("ops", f"SELECT * FROM state.{table}") for table in ("user_models", "trainings", "outbox")),
        *((login, "SELECT * FROM notifier.endpoints") for login in ("state", "ops")),
        *(("notifier", f"SELECT * FROM {table}") for table in ("state.user_models", "ops.letters")),
        ("notifier", "UPDATE notifier.events SET body = ''"),
        ("state", "CREATE TABLE state.t ()"),
        ("state", "DELETE FROM state.model_history"),
        ("state", "UPDATE state.model_history SET reason = ''"),
        ("state", "TRUNCATE state.user_models"),
        ("state", "ALTER TABLE state.user_models DISABLE TRIGGER ALL"),
        ("ops", "CREATE TABLE ops.t ()"),
        ("ops", "UPDATE ops.audit SET actor = ''"),
        ("ops", "DELETE FROM ops.audit"),
    ],
)
async def test_a_role_is_refused_what_it_does_not_need(server, login, statement):
    connection = await asyncpg.connect(server.login(login))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_service_can_not_log_in_to_another_database(server):
    for database in ("postgres", "template1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(server.login("state", database=database))


@pytest.mark.parametrize("password", ["", ":wrong"])
@pytest.mark.parametrize("role", ["postgres", "modelswap_owner", "modelswap_state_login", "modelswap_state"])
async def test_nobody_on_this_machine_logs_in_without_the_password(server, role, password):
    address = urlsplit(server.url)
    url = address._replace(netloc=f"{role}{password}@{address.hostname}:{address.port}").geturl()

    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        await asyncpg.connect(url)


async def test_a_changed_password_counts_from_the_next_start(server):
    await make_roles(server.url, {**GIVEN, "ops": "password-of-a-new-one"})
    try:
        connection = await asyncpg.connect(login_url(server.url, "ops", "password-of-a-new-one"))
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.login("ops"))
    finally:
        await make_roles(server.url, GIVEN)


async def test_no_password_is_in_the_log_of_every_statement(server):
    logged = server.log.read_text()

    assert "ALTER ROLE modelswap_state_login" in logged
    assert re.findall("password-of-", logged) == []


@pytest.mark.parametrize("wrong", ["", "pässword"])
def test_a_password_that_is_missing_or_not_ascii_is_named(wrong):
    given = dict.fromkeys(PASSWORDS.values(), "good") | {"POSTGRES_OPS_PASSWORD": wrong}

    with pytest.raises(Problem, match=r"^POSTGRES_OPS_PASSWORD: "):
        find_passwords(given)


@pytest.mark.parametrize(
    ("typed", "login", "then"),
    [
        ("db migrate", "ops", "use the owner's login in MODELSWAP_DATABASE_URL"),
        ("db status", "ops", "use the owner's login in MODELSWAP_DATABASE_URL"),
        ("db roles", "owner", "use a superuser's login in MODELSWAP_DATABASE_URL"),
    ],
)
def test_a_login_that_may_not_is_told_which_one_may(server: Server, monkeypatch, capsys, *, typed, login, then):
    for name, password in GIVEN.items():
        monkeypatch.setenv(PASSWORDS[name], password)
    monkeypatch.setenv("MODELSWAP_DATABASE_URL", server.login(login))

    code = main(typed.split())

    said = capsys.readouterr().err
    assert code == 1
    assert "42501" in said
    assert f"Next: {then}" in said
