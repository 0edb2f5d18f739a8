"""Three nodes of RabbitMQ: whichever of them dies, webhooks are taken and models are swapped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from deploy.local import LocalServersError, local_servers
from deploy.local.rabbitmq import RabbitMQ
from services.ops.subscriptions.client import Subscriptions
from shared.contract.errors import DependencyDown
from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.topology import EVENTS_LOG, PROGRESS_QUEUE, Topology, topology
from shared.runtime.broker import Delivery, Outgoing, Publisher, declare, declare_log, read_log
from shared.runtime.broker.link import Link
from shared.runtime.management import Management
from tests.broker import Broker
from tests.cluster import running_cluster
from tests.conftest import RABBITMQ_SERIES
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import start
from tests.erlang import evaluate
from tests.lossy import dropped, readiness
from tests.proxy import proxied
from tests.servers import Urls
from tests.sse import Sent, follow_to_the_end
from tests.stack import Stack, plain_client

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
            open_stack(tmp_path, Urls(balancer.url(nodes[0].url), servers.database_url), speed=60.0) as (
                stack,
                simulator,
            ),
        ):
            before = await swapped(stack, "ada")
            holder = nodes[await holder_of(PROGRESS_QUEUE, nodes)]

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


async def test_a_node_dies_and_public_events_reach_queues_and_log(say: Callable[[str], None]):
    """Also that with the log's own leader: a stream works while most of its nodes do, as a quorum queue."""
    plan = topology()
    with running_cluster(say) as nodes:
        first = nodes[0].url
        await declare_all(first, plan)
        async with Publisher(first, name="test", timeout_seconds=60) as publisher:
            await publisher.publish(event(0))
        leader = await holder_of(EVENTS_LOG, nodes)
        others = [node for node in nodes if node is not nodes[leader]]

        nodes[leader].kill()
        began, seconds = monotonic(), []
        async with Publisher(others[0].url, name="test", topology=plan, timeout_seconds=10) as publisher:
            for number in range(1, 6):
                while True:
                    with contextlib.suppress(DependencyDown):
                        await publisher.publish(event(number))
                        break
                seconds.append(round(monotonic() - began, 1))
        numbers = await read_all(others[1].url, until=5)

    say(f"without the log's leader, confirmed after {seconds} s")
    # What was not confirmed at first may be there twice.
    assert sorted(set(numbers)) == [0, 1, 2, 3, 4, 5]
    assert seconds[-1] < 60


async def test_a_node_freezes_and_public_events_wait_until_it_counts_as_down(say: Callable[[str], None]):
    """Only the nodes' own heartbeat (`net_ticktime`) tells that the log's leader is frozen."""
    plan = topology(replicas=3)
    with running_cluster(say) as nodes:
        await declare_all(nodes[0].url, plan)
        frozen = nodes[await holder_of(EVENTS_LOG, nodes)]
        others = ",".join(node.url for node in nodes if node is not frozen)

        os.kill(frozen.pid, signal.SIGSTOP)
        began = monotonic()
        async with Publisher(others, name="test", topology=plan, timeout_seconds=5) as publisher:
            while True:
                with contextlib.suppress(DependencyDown):
                    await publisher.publish(event(1))
                    break
        seconds = monotonic() - began
        os.kill(frozen.pid, signal.SIGCONT)

    say(f"without the log's leader, which is frozen, confirmed after {seconds:.0f} s")
    assert seconds < 100


@pytest.mark.parametrize("series", RABBITMQ_SERIES)
async def test_a_node_that_was_frozen_joins_the_others_again(say: Callable[[str], None], series: str):
    with running_cluster(say, series=series) as (frozen, *others):
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            await until_running(others[0], {node.name for node in others})
        finally:
            os.kill(frozen.pid, signal.SIGCONT)

        for node in (frozen, *others):
            await until_running(node, {frozen.name, *(other.name for other in others)})


async def until_running(asked: RabbitMQ, names: Collection[str]) -> None:
    """Wait until just the nodes of these *names* run, as the *asked* one sees it; that one may be starting again."""
    async with asyncio.timeout(180), Management(asked.management_url, vhost="/") as management:
        while True:
            with contextlib.suppress(DependencyDown):
                if {node.name for node in await management.nodes() if node.running} == names:
                    return
            await asyncio.sleep(0.2)


async def test_a_subscribers_queue_on_a_dead_node_is_named(say: Callable[[str], None]):
    with running_cluster(say) as (node, dead, _):
        await declare_all(node.url, topology())
        async with Broker(dead.url).channel() as channel:
            await channel.queue_declare("theirs", durable=True)
            await channel.queue_bind("theirs", EVENTS_EXCHANGE, "#")
        dead.kill()

        # Until the others have noticed.
        async with asyncio.timeout(120), Management(node.management_url, vhost="/") as management:
            while not (reasons := await Subscriptions(management, node.url).list_blocking()):
                await asyncio.sleep(0.2)

    assert reasons == ["theirs takes no events: it is down"]


async def test_nodes_that_are_down_or_without_disk_are_told(say: Callable[[str], None]):
    with running_cluster(say) as (full, dead, asked):
        evaluate(full, 'rabbit_disk_monitor:set_disk_free_limit("1000TB")')
        dead.kill()

        async with asyncio.timeout(120), Management(asked.management_url, vhost="/") as management:
            while True:
                nodes = await management.nodes()
                down = [node.name for node in nodes if not node.running]
                alarmed = [node.name for node in nodes if node.disk_free_alarm]
                if down and alarmed:
                    break
                await asyncio.sleep(0.2)

    assert (down, alarmed) == ([dead.name], [full.name])


async def test_queues_have_as_many_replicas_as_set_and_leaders_spread(say: Callable[[str], None]):
    plan = topology(replicas=3)
    with running_cluster(say) as nodes:
        # As one address does that is tried first by all.
        await declare_all(nodes[0].url, plan)
        async with plain_client(base_url=nodes[0].management_url) as client:
            queues = (await client.get("/api/queues/%2F")).raise_for_status().json()

    placed = {queue["name"]: queue for queue in queues if queue["type"] != "classic"}
    assert placed.keys() == {queue.name for queue in plan.queues if queue.placement}
    assert {len(queue["members"]) for queue in placed.values()} == {3}
    leaders = Counter(queue["node"] for queue in placed.values())
    say(f"leaders: {sorted(leaders.values())}")
    assert len(leaders) == 3


async def test_a_kept_cluster_is_there_again_and_never_smaller(walkable_folder: Path, say: Callable[[str], None]):
    run = partial(local_servers, state=walkable_folder / "state", postgres=None, say=say)
    with run(nodes=3) as first:
        await declare_all(first.amqp_url, topology())
        async with Publisher(first.amqp_url, name="test", timeout_seconds=60) as publisher:
            await publisher.publish(event(0))
    with run(nodes=3) as second:
        numbers = await read_all(second.amqp_url, until=0)
    with pytest.raises(LocalServersError, match="has more than 1 nodes: start as many"):
        run().__enter__()

    assert second.amqp_url == first.amqp_url
    assert numbers == [0]


async def declare_all(url: str, plan: Topology) -> None:
    link = await Link.open(url, name="test")
    await declare(link.channel, plan.lasting)
    assert await declare_log(link, plan) is None
    await link.close()


def event(number: int) -> Outgoing:
    return Outgoing(EVENTS_EXCHANGE, "model.ready.v1", b"%d" % number)


async def read_all(url: str, *, until: int) -> list[int]:
    """The numbers of the events in the log, up to number *until*."""
    numbers: list[int] = []
    arrived = asyncio.Event()

    def take(delivery: Delivery) -> None:
        numbers.append(int(delivery.body))
        if numbers[-1] == until:
            arrived.set()

    link = await Link.open(url, name="test")
    async with asyncio.timeout(60):
        await read_log(link, take, offset="first", prefetch=100)
        await arrived.wait()
    await link.close()
    return numbers


async def holder_of(queue: str, nodes: Sequence[RabbitMQ]) -> int:
    """The number of the node that the queue, or its leader, is on."""
    async with plain_client() as client:
        answer = await client.get(f"{nodes[0].management_url}/api/queues/%2F/{queue}")
    name = answer.raise_for_status().json()["node"]
    return next(number for number, node in enumerate(nodes) if node.name == name)
