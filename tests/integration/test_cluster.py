"""Three nodes of RabbitMQ: whichever of them dies, webhooks are taken and models are swapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from deploy.local.rabbitmq import RabbitMQ
from shared.contract.topology import PROGRESS_QUEUE
from tests.cluster import running_cluster
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import start
from tests.lossy import dropped, readiness
from tests.proxy import proxied
from tests.servers import Urls
from tests.sse import Sent, follow_to_the_end
from tests.stack import Stack

pytestmark = pytest.mark.chaos


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    """Three nodes take a minute or more; `tests/end_to_end/test_lossy.py` has the same fault with one."""
    if "chaos" not in request.config.getoption("markexpr"):
        pytest.skip("three nodes of RabbitMQ run with `pytest -m chaos` only")


async def swapped(stack: Stack, user: str) -> list[int]:
    """Let *user* have a model; the shares of progress that were seen on the way."""
    seen: list[Sent] = []
    begun = await start(stack, user)
    async with asyncio.timeout(120):
        await follow_to_the_end(stack.api, begun["ref"], seen)
    assert seen[-1].training["stage"] == "active"
    return [sent.training["progress"] for sent in seen if 0 < (sent.training["progress"] or 0) < 100]


async def test_a_node_dies_and_only_progress_waits_for_it(servers: Urls, tmp_path: Path, say: Callable[[str], None]):
    with running_cluster(say) as nodes:
        async with (
            # As a load balancer does.
            proxied(*(node.url for node in nodes)) as balancer,
            open_stack(
                tmp_path, amqp_url=balancer.url(nodes[0].url), database_url=servers.database_url, speed=60.0
            ) as (stack, simulator),
        ):
            before = await swapped(stack, "ada")
            holder = nodes[await holder_of_progress(nodes)]

            holder.kill()
            await stack.until_in_trouble("state", "progress")
            await stack.until_ready()
            without = await swapped(stack, "bob")
            state, receiver = await readiness(stack, "state"), await readiness(stack, "receiver")
            lost = await dropped(stack)
            answered = {attempt.status for attempt in simulator.attempts}

            holder.start()
            async with asyncio.timeout(120):
                while (await readiness(stack, "state"))[1]["progress"] != "ok":
                    await asyncio.sleep(0.2)
            after = await swapped(stack, "cleo")

    say(f"progress seen before, without and with the node again: {len(before)}, {len(without)}, {len(after)}")
    assert before
    assert after
    assert (state[0], receiver[0]) == (200, 200)
    assert lost > 0
    assert answered == {202}


async def holder_of_progress(nodes: Sequence[RabbitMQ]) -> int:
    """The number of the node that the queue lives on."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{nodes[0].management_url}/api/queues/%2F/{PROGRESS_QUEUE}")
    name = answer.raise_for_status().json()["node"]
    return next(number for number, node in enumerate(nodes) if node.name == name)
