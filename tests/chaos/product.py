"""Two of each process behind balancers, with a proxy on every road that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from services.simulator.app import running
from services.simulator.simulator import Simulator
from shared.contract.topology import Topology, topology
from shared.runtime.settings import StateSettings
from tests.broker import Broker
from tests.chance import Chance
from tests.chaos.faults import Targets
from tests.chaos.oracle import Subscriber
from tests.chaos.script import Case, ScriptedWorld
from tests.databases import new_database
from tests.erlang import evaluate
from tests.proxy import proxied
from tests.stack import API_TOKEN, WEBHOOK_SECRET, Process, Stack

_SETTINGS: Final = {
    "MODELSWAP_VERIFY_LEVEL": "schema",
    # In all longer than the reconciler takes to adopt a training whose creation was not answered: until then a model
    # that is looked up may be that training's, and its event is tried again.
    "MODELSWAP_RETRY_DELAYS": "200ms,500ms,1s,2s,4s,8s,8s,8s,15s,15s,15s",
    "MODELSWAP_RECONCILE_AFTER_SECONDS": "5",
    "MODELSWAP_RECONCILE_EVERY_SECONDS": "1",
    "MODELSWAP_RECONCILE_CALLS_PER_MINUTE": "3000",
}
_CALLS_FAIL: Final = {
    "api_throttled": 0.01,
    "api_unavailable": 0.01,
    "api_answer_lost": 0.03,
    "api_slow": 0.01,
}
_TIMESTAMP: Final = re.compile(r'"timestamp": "([^"]+)"')
#: An Erlang expression.
_COUNT_MESSAGES: Final = """
    [{binary_to_list(element(4, amqqueue:get_name(Queue))),
      proplists:get_value(messages, rabbit_amqqueue:info(Queue, [messages]))} || Queue <- rabbit_amqqueue:list()]
"""


@dataclass(frozen=True)
class Product:
    """What runs, and a tester's ways to it that no fault strikes."""

    api: httpx.AsyncClient
    simulator: Simulator
    world: ScriptedWorld
    topology: Topology
    subscriber: Subscriber
    database_url: str
    targets: Targets

    def count_messages(self) -> dict[str, int]:
        """How many messages each queue holds, those in somebody's hands included; not the log, which keeps them."""
        counted: dict[str, int] = {}
        # A node knows the messages of those queues whose leader it is.
        for node in self.targets.nodes.values():
            for name, messages in re.findall(r'\{"([^"]*)", (\d+)\}', evaluate(node, _COUNT_MESSAGES)):
                counted[name] = max(int(messages), counted.get(name, 0))
        return {queue.name: counted[queue.name] for queue in self.topology.queues if not queue.is_log}

    def logged(self, words: Collection[str]) -> list[str]:
        """What all processes logged about any of *words*, in the order of time."""
        # As they are: the last one before a kill may be half a line.
        lines = [
            (_TIMESTAMP.search(line), f"{name}: {line}")
            for name, process in self.targets.processes.items()
            for line in process.log.read_text().splitlines()
            if any(word in line for word in words)
        ]
        return [line for _, line in sorted((at[1] if at else "", line) for at, line in lines)]


@contextlib.asynccontextmanager
async def running_twice(
    folder: Path,
    cases: Sequence[Case],
    *,
    seed: int,
    nodes: Sequence[RabbitMQ],
    postgres: Postgres,
    postgres_url: str = "",
) -> AsyncIterator[Product]:
    """
    Two of each process, against a Replicate that plays *cases*; *nodes* are one RabbitMQ.

    With a *postgres_url*, which may name two servers, the processes have every server's address, and no proxy.
    """
    simulator = Simulator(
        seed=seed,
        speed=60.0,
        secret=WEBHOOK_SECRET,
        log_interval_real_seconds=2,
        retry_delays_real_seconds=(0.5, 1, 2, 4, 8),
    )
    world = simulator.world = ScriptedWorld(simulator.knobs, cases, changed=simulator.changed)
    world.orders = Chance(_CALLS_FAIL, seed)
    async with contextlib.AsyncExitStack() as opened:
        enter = opened.enter_async_context
        database_url = await enter(new_database(postgres_url or postgres.url))
        replicate_url = await enter(running(simulator))
        public, api = await enter(proxied(takes_turns=True)), await enter(proxied(takes_turns=True))
        shared = {
            **_SETTINGS,
            "MODELSWAP_REF_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_API_URL": f"http://127.0.0.1:{api.port}",
            "MODELSWAP_PUBLIC_URL": f"http://127.0.0.1:{public.port}",
        }
        brokers = [node.url for node in nodes]
        proxies = {"public address": public, "api": api}
        stacks = []
        for number in (1, 2):
            to_broker = await enter(proxied(*brokers[number - 1 :], *brokers[: number - 1]))
            to_database = await enter(proxied(postgres.url))
            to_replicate = await enter(proxied(replicate_url))
            proxies |= {
                f"rabbitmq of {number}": to_broker,
                f"postgres of {number}": to_database,
                f"replicate of {number}": to_replicate,
            }
            own = folder / str(number)
            own.mkdir()
            stacks.append(
                Stack(
                    own,
                    amqp_url=",".join(brokers) if postgres_url else to_broker.url(brokers[0]),
                    database_url=database_url if postgres_url else to_database.url(database_url),
                    replicate_url=to_replicate.url(replicate_url),
                    settings=shared,
                )
            )
        public.servers = [("127.0.0.1", stack.ports["receiver"]) for stack in stacks]
        api.servers = [("127.0.0.1", stack.ports["state"]) for stack in stacks]
        plan = topology(StateSettings.load(stacks[0].environment).retry_delays)
        # Not by the roads that are cut.
        broker = await enter(Broker((await enter(proxied(*brokers, takes_turns=True))).url(brokers[0]), plan))
        subscriber = await enter(Subscriber(broker.url))
        async with asyncio.TaskGroup() as tasks:
            for stack in stacks:
                tasks.create_task(enter(stack))
        client = await enter(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{api.port}", headers={"Authorization": f"Bearer {API_TOKEN}"}, timeout=10
            )
        )
        processes: dict[str, Process] = {}
        ports: dict[str, int] = {}
        for number, stack in enumerate(stacks, start=1):
            processes |= {f"{name} {number}": process for name, process in stack.processes.items()}
            ports |= {f"{name} {number}": port for name, port in stack.ports.items()}
        named = {f"node {number}": node for number, node in enumerate(nodes, start=1)}
        targets = Targets(processes, ports, proxies, named, postgres, database_url)
        yield Product(client, simulator, world, plan, subscriber, database_url, targets)
        # All is judged: there is nothing to wait for.
        for process in processes.values():
            process.kill()
