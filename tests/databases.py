"""A database of one's own on a server that others use as well, dropped afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from services.cli.local.roles import LOGINS, login_url, make_roles
from services.ops import migrate as ops
from services.state import migrate as state

#: Not secrets: these servers live as long as the tests, on loopback. The same for every database of a server.
_PASSWORDS: Final = {login: f"password-of-{login}" for login in LOGINS}


@contextlib.asynccontextmanager
async def empty_database(server_url: str, *, template: str = "template1") -> AsyncIterator[str]:
    """One with nothing in it but what *template* has."""
    name = f"test_{uuid4().hex}"
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def new_database(server_url: str) -> AsyncIterator[str]:
    """One with the tables of the services."""
    async with empty_database(server_url) as url:
        await make_roles(_without_database(url), _PASSWORDS, database=_name(url))
        for migrations in (state.MIGRATIONS, ops.MIGRATIONS):
            await migrations.apply(logged_in(url, "owner"))
        yield url


def logged_in(url: str, login: str) -> str:
    """Return *url* for a login ("owner", "state" or "ops") instead of the tester's."""
    return login_url(url, login, _PASSWORDS[login], database=_name(url))


def copy_of(url: str) -> contextlib.AbstractAsyncContextManager[str]:
    """One with what the database at *url* has, to which nobody may be connected. Faster than migrating a new one."""
    return empty_database(url, template=_name(url))


async def refuse(url: str, change: str, when: str) -> None:
    """Have the database at *url* refuse a *change*, such as ``DELETE ON ops.letters``, of those rows."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = '23514'; END $$;
            CREATE TRIGGER refuse BEFORE {change} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse();
        """)
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    # Not to the database at *url*: one that is copied or dropped must be left alone.
    connection = await asyncpg.connect(_without_database(url))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _without_database(url: str) -> str:
    return urlsplit(url)._replace(path="/postgres").geturl()


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
