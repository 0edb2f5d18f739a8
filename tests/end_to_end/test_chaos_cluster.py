"""
Servers of a cluster die or freeze under load: nothing is lost, nothing is done twice, and how long it takes is said.

`tests/chaos` has the trainings, the product and the oracle that judges it. Here no proxy stands between the processes
and the servers: they have the address of each.

    make chaos-cluster                                           three nodes of RabbitMQ, two servers of Postgres
    pytest -m chaos ... --chaos-trainings 300                    fewer trainings
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from deploy.local.rabbitmq import RabbitMQ
from shared.runtime.clock import now
from tests.chaos.oracle import Oracle, Wrong
from tests.chaos.product import Product, running_twice
from tests.chaos.script import script
from tests.cluster import running_cluster
from tests.end_to_end.test_chaos import report, request_all, until_settled
from tests.failover import Pair, two_postgres

pytestmark = [pytest.mark.chaos, pytest.mark.own_servers]

_SEED: Final = 14
_TRAININGS: Final = 5000
_DOWN_SECONDS: Final = 20
_FROZEN_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.1
_SWAPS: Final = "SELECT at FROM state.model_history WHERE at >= $1 AND at < $2 ORDER BY at"


@dataclass(frozen=True)
class Blow:
    """One server that is struck, and comes back."""

    name: str
    strike: Callable[[], AbstractAsyncContextManager[None]]
    seconds: float


@pytest.fixture
def trainings(request: pytest.FixtureRequest) -> int:
    if "chaos" not in request.config.getoption("markexpr"):
        pytest.skip("clusters run with `pytest -m chaos` only")
    given: int | None = request.config.getoption("--chaos-trainings")
    return given or _TRAININGS


async def test_while_rabbitmq_nodes_die_one_by_one_nothing_is_lost(
    tmp_path: Path, say: Callable[[str], None], trainings: int
):
    async with servers(say) as (nodes, pair):
        blows = [*map(death, nodes), freeze(nodes[0])]
        await endure(tmp_path, say, (nodes, pair), blows, trainings=trainings)


async def test_while_postgres_fails_over_and_back_nothing_is_lost(
    tmp_path: Path, say: Callable[[str], None], trainings: int
):
    async with servers(say) as (nodes, pair):
        await endure(tmp_path, say, (nodes, pair), [fail_over(pair), fail_over(pair)], trainings=trainings)


async def test_while_postgres_is_frozen_nothing_is_lost(tmp_path: Path, say: Callable[[str], None], trainings: int):
    async with servers(say) as (nodes, pair):
        await endure(tmp_path, say, (nodes, pair), [freeze_postgres(pair), leave_frozen(pair)], trainings=trainings)


@contextlib.asynccontextmanager
async def servers(say: Callable[[str], None]) -> AsyncIterator[tuple[Sequence[RabbitMQ], Pair]]:
    with running_cluster(say) as nodes, two_postgres() as pair:
        await pair.begin()
        yield nodes, pair


def death(node: RabbitMQ) -> Blow:
    @contextlib.asynccontextmanager
    async def killed() -> AsyncIterator[None]:
        await asyncio.to_thread(node.kill)
        yield
        await asyncio.to_thread(node.start)

    return Blow(f"{node.name} killed", killed, _DOWN_SECONDS)


def freeze(node: RabbitMQ) -> Blow:
    @contextlib.asynccontextmanager
    async def stopped() -> AsyncIterator[None]:
        os.kill(node.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(node.pid, signal.SIGCONT)

    return Blow(f"{node.name} stopped with SIGSTOP", stopped, _FROZEN_SECONDS)


def fail_over(pair: Pair) -> Blow:
    """The primary crashes, and the standby is promoted; the old primary becomes the new standby."""

    @contextlib.asynccontextmanager
    async def failed_over() -> AsyncIterator[None]:
        await pair.fail_over()
        yield
        await pair.rejoin()

    return Blow("Postgres failed over", failed_over, _DOWN_SECONDS)


def freeze_postgres(pair: Pair) -> Blow:
    """The primary neither answers nor refuses, and then goes on; nobody promotes the standby."""

    @contextlib.asynccontextmanager
    async def stopped() -> AsyncIterator[None]:
        with pair.frozen():
            yield

    return Blow("Postgres stopped with SIGSTOP", stopped, _FROZEN_SECONDS)


def leave_frozen(pair: Pair) -> Blow:
    """The standby is promoted while the primary is frozen, which becomes the new standby."""

    @contextlib.asynccontextmanager
    async def failed_over() -> AsyncIterator[None]:
        with pair.frozen():
            await pair.promote()
            yield
        await pair.rejoin()

    return Blow("Postgres stopped with SIGSTOP and failed over", failed_over, _DOWN_SECONDS)


async def endure(
    folder: Path,
    say: Callable[[str], None],
    servers: tuple[Sequence[RabbitMQ], Pair],
    blows: Sequence[Blow],
    *,
    trainings: int,
) -> None:
    nodes, pair = servers
    cases = script(_SEED, trainings)
    async with running_twice(
        folder, cases, seed=_SEED, nodes=nodes, postgres=pair.primary, postgres_url=pair.url
    ) as product:
        oracle = Oracle(product.world, product.database_url, product.subscriber)
        requested: set[int] = set()
        struck: list[tuple[Blow, datetime]] = []
        begun, begun_at = time.monotonic(), now()
        async with oracle.watching():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(request_all(product, cases, requested))
                tasks.create_task(strike_all(blows, struck, requested, trainings))
            calm = time.monotonic()
            missing = await until_settled(product, oracle)
        settled = time.monotonic()
        wrong = {*missing, *await oracle.verdict()}
        wrong |= {Wrong(name, "ended by itself") for name, it in product.targets.processes.items() if not it.is_alive}
        say(
            f"{trainings} trainings in {calm - begun:.0f} s, settled {settled - calm:.0f} s later; "
            f"{len(product.subscriber.activated)} swaps, models read {oracle.looks} times; {len(wrong)} wrong"
        )
        quiet = await longest_pause(product, begun_at, struck[0][1])
        say(f"  before the first blow: at most {quiet:.1f} s without a swap")
        for blow, at in struck:
            pause = await longest_pause(product, at, at + timedelta(seconds=blow.seconds + 60))
            say(f"  {blow.name} for {blow.seconds:.0f} s: at most {pause:.1f} s without a swap")
        if wrong:
            pytest.fail(report(_SEED, [], sorted(wrong), product), pytrace=False)


async def strike_all(
    blows: Sequence[Blow], struck: list[tuple[Blow, datetime]], requested: set[int], trainings: int
) -> None:
    """Strike one after the other, evenly over the run, and note when."""
    for number, blow in enumerate(blows, start=1):
        while len(requested) < number * trainings / (len(blows) + 1):
            await asyncio.sleep(_POLL_SECONDS)
        struck.append((blow, now()))
        async with blow.strike():
            await asyncio.sleep(blow.seconds)


async def longest_pause(product: Product, since: datetime, until: datetime) -> float:
    """The longest time, in seconds, in which no swap was committed."""
    database = await asyncpg.connect(product.database_url)
    try:
        times = [since, *(row["at"] for row in await database.fetch(_SWAPS, since, until))]
    finally:
        await database.close()
    return max(((later - earlier).total_seconds() for earlier, later in pairwise(times)), default=0)
