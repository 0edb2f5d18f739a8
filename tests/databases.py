"""A fresh database on a server that others use as well."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg

from services.state.migrate import migrate


@contextlib.asynccontextmanager
async def new_database(server_url: str, *, migrated: bool = True) -> AsyncIterator[str]:
    """A database of one's own, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    await _execute(server_url, f"CREATE DATABASE {name}")
    url = server_url.rsplit("/", 1)[0] + f"/{name}"
    try:
        if migrated:
            await migrate(url)
        yield url
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
