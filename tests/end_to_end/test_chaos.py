"""
Faults of every kind at once, from a seed: at the end every user has the right model, and never had a wrong one.

`tests/chaos` has the script of a run, its faults, the product that they strike, and the oracle that judges it.

    pytest tests/end_to_end/test_chaos.py                            one seed, 100 trainings
    make chaos                                                       ten seeds of 1,000 on RabbitMQ 3.10 and on 4, and
                                                                     one on three nodes
    pytest -m chaos ... --chaos-seeds 7,8 --chaos-trainings 300      these; --chaos-rabbitmq 4: on this one

What happens follows from the seed; when it meets whom does not, so a run that failed may pass the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from deploy.local import Servers
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from tests.chaos.faults import Fault, schedule, strike
from tests.chaos.oracle import Oracle, Wrong
from tests.chaos.product import Product, running_twice
from tests.chaos.script import CASE, Case, script
from tests.cluster import running_cluster
from tests.conftest import RABBITMQ_SERIES
from tests.servers import private_servers
from tests.stack import API_TOKEN, OPS_TOKEN, READER_TOKEN, REPLICATE_TOKEN, SERVICE_TOKEN, WEBHOOK_SECRET, plain_client

pytestmark = [pytest.mark.chaos, pytest.mark.own_servers]

TRAINER: Final = f"ostris/flux-dev-lora-trainer:{'e' * 64}"
#: At most: faults last seconds, and are to meet trainings.
_REQUESTS_PER_SECOND: Final = 10
_AT_ONCE: Final = 16
#: After the last fault everything must be reached within this, on a busy machine too.
_SETTLES_SECONDS: Final = 480
_MOST_SHOWN: Final = 10
_SECRETS: Final = (WEBHOOK_SECRET, REPLICATE_TOKEN, API_TOKEN, SERVICE_TOKEN, OPS_TOKEN, READER_TOKEN)
#: The logs of so many of them are shown, and so many lines.
_MOST_LOGGED: Final = 3
_MOST_LINES: Final = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_asked_for = "chaos" in metafunc.config.getoption("markexpr")
    if "seed" in metafunc.fixturenames:
        given = metafunc.config.getoption("--chaos-seeds")
        default = range(1, 11) if is_asked_for and "three_nodes" not in metafunc.function.__name__ else (1,)
        metafunc.parametrize("seed", [int(each) for each in given.split(",")] if given else default)
    if "series" in metafunc.fixturenames:
        given = metafunc.config.getoption("--chaos-rabbitmq")
        metafunc.parametrize("series", given.split(",") if given else RABBITMQ_SERIES if is_asked_for else ["auto"])
    if "trainings" in metafunc.fixturenames:
        given = metafunc.config.getoption("--chaos-trainings")
        metafunc.parametrize("trainings", [given or (1000 if is_asked_for else 100)])


async def test_under_chaos_every_user_ends_with_the_right_model(
    servers_of: Servers, tmp_path: Path, say: Callable[[str], None], seed: int, trainings: int
):
    nodes = [servers_of.rabbitmq]
    await endure(tmp_path, say, seed=seed, trainings=trainings, nodes=nodes, postgres=servers_of.postgres)


@pytest.fixture
def servers_of(request: pytest.FixtureRequest, say: Callable[[str], None], series: str) -> Iterator[Servers]:
    """Servers that a test may kill, with this RabbitMQ."""
    if series == "auto":
        yield request.getfixturevalue("restartable_servers")
        return
    with private_servers(say, rabbitmq=series) as private:
        yield private


async def test_under_chaos_on_three_nodes_every_user_ends_with_the_right_model(
    request: pytest.FixtureRequest, tmp_path: Path, say: Callable[[str], None], seed: int, trainings: int
):
    if "chaos" not in request.config.getoption("markexpr"):
        pytest.skip("three nodes of RabbitMQ run with `pytest -m chaos` only")
    postgres = request.getfixturevalue("restartable_servers").postgres
    with running_cluster(say) as nodes:
        await endure(tmp_path, say, seed=seed, trainings=trainings, nodes=nodes, postgres=postgres)


async def endure(
    folder: Path,
    say: Callable[[str], None],
    *,
    seed: int,
    trainings: int,
    nodes: Sequence[RabbitMQ],
    postgres: Postgres,
) -> None:
    cases = script(seed, trainings)
    async with running_twice(folder, cases, seed=seed, nodes=nodes, postgres=postgres) as product:
        oracle = Oracle(product.world, product.database_url, product.subscriber)
        faults = schedule(seed, trainings, product.targets)
        begun = time.monotonic()
        async with oracle.watching():
            async with asyncio.TaskGroup() as tasks:
                requested: set[int] = set()
                tasks.create_task(request_all(product, cases, requested))
                tasks.create_task(strike(faults, product.targets, lambda: len(requested)))
            product.world.orders.clear()
            calm = time.monotonic()
            missing = await until_settled(product, oracle)
        settled = time.monotonic()
        wrong = {*missing, *await oracle.verdict()}
        ended = [name for name, process in product.targets.processes.items() if not process.is_alive]
        wrong |= {Wrong(name, "ended by itself") for name in (*product.targets.died, *ended)}
        wrong |= {Wrong("logs", f"tell a secret: {line}") for line in product.logged(_SECRETS)}
        kinds = Counter(str(fault.kind) for fault in faults)
        say(
            f"seed {seed}: {len(faults)} faults in {calm - begun:.0f} s "
            f"({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}), "
            f"settled {settled - calm:.0f} s later; "
            f"{len(product.world.trainings())} trainings, {len(product.subscriber.activated)} swaps, "
            f"models read {oracle.looks} times; {len(wrong)} wrong"
        )
        if wrong:
            pytest.fail(report(seed, faults, sorted(wrong), product), pytrace=False)


async def request_all(product: Product, cases: Iterable[Case], requested: set[int]) -> None:
    """Request all trainings, and note which are *requested*."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> None:
        async with slots:
            await request(product, case)
        requested.add(case.number)

    async with asyncio.TaskGroup() as tasks:
        for case in cases:
            tasks.create_task(one(case))
            await asyncio.sleep(1 / _REQUESTS_PER_SECOND)


async def request(product: Product, case: Case) -> None:
    """Start one training, with one key until it is answered; cancel it where the script says so."""
    body = {"user_id": case.user, "destination": case.destination, "trainer": TRAINER, "input": {CASE: case.number}}
    started = await _until_answered(product, "/v1/trainings", body, key=f"case-{case.number}")
    if case.is_canceled:
        # 409: it has ended, or its id is not known yet. What became of it the simulator knows.
        await _until_answered(product, f"/v1/trainings/{started.json()['ref']}/cancel", None, or_else=409)


async def _until_answered(
    product: Product, path: str, body: object, *, key: str = "", or_else: int = 0
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    async with asyncio.timeout(_SETTLES_SECONDS):
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await product.api.post(path, json=body, headers=headers)
                if answer.is_success or answer.status_code == or_else:
                    return answer
                # Nothing in the script deserves another refusal.
                assert answer.status_code >= 500 or answer.status_code == 429, answer.text
            await asyncio.sleep(0.2)


async def until_settled(product: Product, oracle: Oracle) -> list[Wrong]:
    """Wait until everything is reached; what is not, in the end."""
    missing = [Wrong("simulator", "has webhooks to post")]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLES_SECONDS):
            await product.simulator.settled()
            while missing := await oracle.missing() or waiting(product) or await unready(product):
                await asyncio.sleep(0.5)
    return missing


async def unready(product: Product) -> list[Wrong]:
    """Which processes cannot do their work, although all faults are over."""
    wrong: list[Wrong] = []
    async with plain_client() as client:
        for name, port in product.targets.ports.items():
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            except httpx.TransportError as error:
                wrong.append(Wrong(name, f"does not answer: {error!r}"))
            else:
                if not answer.is_success:
                    wrong.append(Wrong(name, f"is not ready: {answer.text}"))
    return wrong


def waiting(product: Product) -> list[Wrong]:
    """What waits in queues, or is in somebody's hands."""
    counted = product.count_messages()
    return [Wrong(queue, f"holds {number} messages") for queue, number in counted.items() if number]


def report(seed: int, faults: Sequence[Fault], wrong: Sequence[Wrong], product: Product) -> str:
    """What an engineer needs to find the cause."""
    names = {each.about for each in wrong[:_MOST_LOGGED]}
    return "\n".join(
        [
            f"seed {seed}: {len(wrong)} are wrong",
            *(f"  {each.about}: {each.what}" for each in wrong[:_MOST_SHOWN]),
            "faults:",
            *(f"  {fault}" for fault in faults),
            "logs:",
            *(f"  {line}" for line in product.logged(names)[-_MOST_LINES:]),
        ]
    )
