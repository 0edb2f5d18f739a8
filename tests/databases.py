"""A database of one's own on a server that others use as well, dropped afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from services.ops import migrate as ops
from services.state import migrate as state


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
        for migrations in (state.MIGRATIONS, ops.MIGRATIONS):
            await migrations.apply(url)
        yield url


def copy_of(url: str) -> contextlib.AbstractAsyncContextManager[str]:
    """One with what the database at *url* has, to which nobody may be connected. Faster than migrating a new one."""
    return empty_database(url, template=urlsplit(url).path.removeprefix("/"))


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
    connection = await asyncpg.connect(urlsplit(url)._replace(path="/postgres").geturl())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
