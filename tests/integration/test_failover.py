"""Two Postgres servers: whichever takes writes is used, and after a failover the old one no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from time import monotonic
from urllib.parse import urlsplit

import asyncpg
import pytest

from services.cli.local.doctor import examine
from services.state import migrate
from shared.contract.errors import DependencyDown
from shared.runtime.addresses import servers_of
from shared.runtime.postgres import Connection, Pool, connect, connect_pool, in_transaction
from tests.failover import Pair, two_postgres
from tests.proxy import proxied

pytestmark = pytest.mark.own_servers


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with two_postgres() as pair:
        await pair.begin()
        yield pair


@pytest.fixture
async def pool(pair: Pair) -> AsyncIterator[Pool]:
    pool = await connect_pool(pair.url, application_name="test", max_size=4)
    await in_transaction(pool, lambda connection: connection.execute("CREATE TABLE seen (number int PRIMARY KEY)"))
    try:
        yield pool
    finally:
        pool.terminate()


async def write(pool: Pool, number: int) -> None:
    await in_transaction(pool, lambda connection: connection.execute("INSERT INTO seen VALUES ($1)", number))


async def write_on(pool: Pool, numbers: Iterator[int]) -> None:
    while True:
        await write(pool, next(numbers))


async def until_written(pool: Pool, number: int) -> float:
    """Write *number* as soon as it can be; how many seconds that took."""
    began = monotonic()
    async with asyncio.timeout(120):
        while True:
            try:
                await write(pool, number)
            except DependencyDown:
                await asyncio.sleep(0.1)
            else:
                return monotonic() - began


async def all_written(pool: Pool) -> list[int]:
    async def read(connection: Connection) -> list[int]:
        return [row["number"] for row in await connection.fetch("SELECT number FROM seen ORDER BY number")]

    return await in_transaction(pool, read)


async def server_of(pool: Pool) -> int:
    """The port of the server that *pool* is connected to."""

    async def read(connection: Connection) -> int:
        return int(await connection.fetchval("SHOW port"))

    return await in_transaction(pool, read)


async def test_a_failover_and_the_way_back_are_followed(pair: Pair, pool: Pool, say):
    await write(pool, 1)

    await pair.fail_over()
    there = await until_written(pool, 2)
    await pair.rejoin()
    await until_written(pool, 3)
    await pair.fail_over()
    back = await until_written(pool, 4)

    say(f"written again {there:.1f} and {back:.1f} s after a failover")
    assert await all_written(pool) == [1, 2, 3, 4]
    assert await server_of(pool) == urlsplit(pair.primary.url).port
    assert max(there, back) < 60


async def test_commands_find_the_primary_behind_a_standby(pair: Pair):
    """In either order: the standby is the first, or the second."""
    one, other = servers_of(pair.url)
    turned = pair.url.replace(f"{one[0]}:{one[1]},{other[0]}:{other[1]}", f"{other[0]}:{other[1]},{one[0]}:{one[1]}")
    # Several servers imply it.
    implied = turned.partition("?")[0]

    for url in (pair.url, turned, implied):
        connection = await connect(url, application_name="test")
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
        await connection.close()
    await migrate.MIGRATIONS.apply(implied)
    found = await examine({"MODELSWAP_DATABASE_URL": implied})

    assert [each.status for each in found if each.check == "database"] == ["ok"]


async def test_a_primary_that_turns_read_only_is_left(pair: Pair, pool: Pool):
    """As one that was demoted while connections to it stay open."""
    old = await server_of(pool)
    connection = await asyncpg.connect(pair.primary.url)
    await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()

    numbers = count()
    with pytest.raises(DependencyDown, match="ReadOnlySQLTransactionError"):
        await write_on(pool, numbers)
    await pair.promote()
    await until_written(pool, next(numbers))

    assert await server_of(pool) != old


async def test_a_primary_that_is_cut_off_is_left_in_seconds(pair: Pair, say):
    """It neither answers nor refuses: only a time limit of its own leads to the next server."""
    async with proxied(pair.primary.url) as network:
        cut_off = pair.url.replace(f":{urlsplit(pair.primary.url).port}", f":{network.port}")
        pool = await connect_pool(cut_off, application_name="test", max_size=4)
        await in_transaction(pool, lambda connection: connection.execute("CREATE TABLE seen (number int)"))

        network.is_silent = True
        network.hold()
        await pair.promote()
        seconds = await until_written(pool, 1)
        new = await connect(cut_off, application_name="test")
        await new.close()
        pool.terminate()

    say(f"written again {seconds:.1f} s after the primary was cut off")
    assert seconds < 100
