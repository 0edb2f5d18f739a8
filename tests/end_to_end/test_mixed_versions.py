"""
The release before runs on the new tables and beside the new processes: a rolling upgrade, and back, loses no training.

Which release that is, and where its code comes from: `tests/release_before.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx

from services.simulator.app import running
from services.simulator.faults import FaultOrder
from services.simulator.simulator import Simulator
from shared.contract.events import EVENTS_EXCHANGE, ModelActivated
from shared.contract.topology import DEAD_QUEUE, Topology, topology
from shared.runtime.settings import StateSettings
from tests.broker import Broker
from tests.databases import new_database
from tests.end_to_end.test_asking import GIVES_UP
from tests.end_to_end.test_walk import TRAINER
from tests.proxy import Proxy, proxied
from tests.release_before import ProcessOfBefore, run_command, unpack
from tests.servers import Urls
from tests.shell import Shell
from tests.stack import API_TOKEN, SERVICES, WEBHOOK_SECRET, Stack, plain_client
from tests.webhooks import Endpoint

#: Trainings that begin and end in each mix of versions: as many as there are endings.
_OF_A_MIX: Final = 6
_AT_ONCE: Final = 3
_SECONDS: Final = 120
#: What Replicate does with one training after the other, and where it must end.
_ENDINGS: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({}, "active"),
    ({"output": {"version": {"id": "$version"}}, "duplicate": 2}, "active"),
    ({"outcome": "failed"}, "failed"),
    ({"version_late_calls": 2}, "active"),
    ({"outcome": "canceled"}, "canceled"),
    ({"reorder": True, "output": "$destination:$version"}, "active"),
)


@dataclass
class Product:
    """Two of each process: one of the release before, one of today. Callers do not know which one answers."""

    before: Stack
    today: Stack
    simulator: Simulator
    api: httpx.AsyncClient
    say: Callable[[str], None]
    #: Where each training that began must end.
    ends: dict[str, str] = field(default_factory=dict)
    ended: int = 0
    _endings: Iterator[tuple[dict[str, Any], str]] = field(default_factory=lambda: cycle(_ENDINGS))

    async def train(self) -> None:
        """Start one training, and wait for its end."""
        faults, end = next(self._endings)
        begun = await self._begin(**faults)
        self.ends[begun["ref"]] = end
        seen = begun
        try:
            async with asyncio.timeout(_SECONDS):
                while (seen := await self._answered("GET", f"/v1/trainings/{begun['ref']}"))["stage"] != end:
                    assert seen["stage"] in ("requested", "running", "verifying"), seen
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"should be {end}: {seen}") from None
        self.ended += 1

    async def repairs(self) -> dict[str, Any]:
        """Replay a dead letter, whichever version wrote, archived and sends it; return the training."""
        begun = await self._begin(version_late_calls=GIVES_UP)
        letter = await self.today.dead_letter(begun["training_id"])
        body = {"letters": [letter["number"]], "reason": "Replicate shows the version by now"}
        (await self.today.ops.post("/v1/replays", json=body)).raise_for_status()
        await self.today.until_stage(begun["training_id"], "active")
        self.ends[begun["ref"]] = "active"
        return begun

    async def _begin(self, **faults: Any) -> dict[str, Any]:
        """Start a training of a new user, with these *faults*."""
        user = f"user-{uuid4().hex[:8]}"
        self.simulator.order(FaultOrder.model_validate({**faults, "destination": f"acme/{user}"}))
        body = {"user_id": user, "destination": f"acme/{user}", "trainer": TRAINER, "input": {"steps": 1000}}
        return await self._answered("POST", "/v1/trainings", json=body, headers={"Idempotency-Key": user})

    async def _answered(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Ask again while processes come and go."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self.api.request(method, path, **request)
                if answer.status_code < 500:
                    assert answer.is_success, answer.text
                    said: dict[str, Any] = answer.json()
                    return said
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def training(self) -> AsyncIterator[None]:
        """Let trainings begin and end, several at a time."""
        is_over = asyncio.Event()

        async def go_on() -> None:
            while not is_over.is_set():
                await self.train()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(go_on())
            yield
            is_over.set()

    async def passes(self, mix: str) -> None:
        """Wait until trainings that began in this *mix* of versions have ended."""
        # Those that are under way began in the last one.
        wanted = self.ended + _AT_ONCE + _OF_A_MIX
        async with asyncio.timeout(_SECONDS):
            while self.ended < wanted:
                await asyncio.sleep(0.05)
        self.say(f"{mix}: {self.ended} trainings have ended")

    async def start(self, stack: Stack, *names: str) -> None:
        for name in names:
            stack.processes[name].start()
        await stack.until_ready(*names)

    async def replace(self, old: Stack, new: Stack, name: str) -> None:
        """Start one, and then stop the other, as a rolling update does it."""
        await self.start(new, name)
        assert await asyncio.to_thread(old.processes[name].stop) == 0


@contextlib.asynccontextmanager
async def two_versions(folder: Path, servers: Urls, say: Callable[[str], None]) -> AsyncIterator[Product]:
    """No process runs yet; queues and tables are those of the release before."""
    code = unpack(folder / "code")
    simulator = Simulator(
        speed=300.0, secret=WEBHOOK_SECRET, retry_delays_real_seconds=(0.2, 0.5, 1, 1, 2, 2, 4, 4, 8, 8)
    )
    async with contextlib.AsyncExitStack() as opened:
        enter = opened.enter_async_context
        database_url = await enter(new_database(servers.database_url, is_migrated=False))
        replicate_url = await enter(running(simulator))
        doors = {name: await enter(proxied(takes_turns=True)) for name in SERVICES}
        settings = {
            "MODELSWAP_REF_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_WEBHOOK_MASTER_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_PUBLIC_URL": _url(doors["receiver"]),
            "MODELSWAP_API_URL": _url(doors["state"]),
            **{
                f"MODELSWAP_{name.upper()}_URL": _url(door)
                for name, door in doors.items()
                if name not in ("state", "ops")
            },
        }
        before, today = (
            Stack(
                _made(folder / name),
                amqp_url=servers.amqp_url,
                database_url=database_url,
                replicate_url=replicate_url,
                settings=settings,
            )
            for name in ("before", "today")
        )
        for name, process in before.processes.items():
            before.processes[name] = ProcessOfBefore(process, code)
        for name, door in doors.items():
            door.servers = [("127.0.0.1", stack.ports[name]) for stack in (before, today)]
        await _forget_queues(before.broker, topology(StateSettings.load(today.environment).retry_delays))
        for command in (("db", "migrate"), ("topology", "apply")):
            await asyncio.to_thread(run_command, code, before.environment, *command)
        token = {"Authorization": f"Bearer {API_TOKEN}"}
        api = await enter(plain_client(base_url=_url(doors["state"]), headers=token))
        for stack in (before, today):
            opened.push_async_callback(stack.__aexit__, None, None, None)
        yield Product(before, today, simulator, api, say)


def _url(door: Proxy) -> str:
    return f"http://127.0.0.1:{door.port}"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _forget_queues(broker: Broker, plan: Topology) -> None:
    """Those of today, which other tests have left: the release before declares its own."""
    for queue in reversed(plan.queues):
        await broker.delete_queue(queue.name)


async def test_a_rolling_upgrade_and_back_loses_no_training(servers: Urls, tmp_path: Path, say: Callable[[str], None]):
    async with contextlib.AsyncExitStack() as opened:
        product = await opened.enter_async_context(two_versions(tmp_path, servers, say))
        before, today = product.before, product.today
        await product.start(before, *SERVICES)
        queue = await opened.enter_async_context(today.broker.subscribed(EVENTS_EXCHANGE, ModelActivated.key))
        endpoint = await opened.enter_async_context(Endpoint())
        await _add_endpoint(before, endpoint)
        async with product.training():
            await product.passes("all of before")
            for command in (("db", "migrate"), ("topology", "apply")):
                code, _, said = await Shell(today.environment).run(*command)
                assert code == 0, said
            await product.passes("all of before, on the tables of today")
            for old, new, way in ((before, today, "upgrade"), (today, before, "downgrade")):
                for name in SERVICES:
                    await product.replace(old, new, name)
                    await product.passes(f"{way}: {name}")
            await product.start(today, *SERVICES)
            await product.passes("two of each")
            repaired = await product.repairs()
        swapped = {ref for ref, end in product.ends.items() if end == "active"}
        while swapped - {json.loads(each.body)["data"]["ref"] for each in endpoint.heard}:
            await endpoint.until_heard(len(endpoint.heard) + 1)
        while swapped:
            swapped.discard(json.loads((await today.broker.wait_for(queue)).body)["ref"])
        dead = [await today.broker.depth(DEAD_QUEUE), await today.dead_letters(status="open")]

    errors = [
        line
        for stack in (before, today)
        for process in stack.processes.values()
        for line in process.lines()
        if line["level"] in ("error", "critical") and line.get("training_id") != repaired["training_id"]
    ]
    assert (dead, errors) == ([0, []], [])


async def _add_endpoint(stack: Stack, endpoint: Endpoint) -> None:
    async with plain_client(headers={"Authorization": f"Bearer {API_TOKEN}"}) as client:
        body = {"url": endpoint.url, "events": [ModelActivated.key]}
        (await client.post(f"{stack.url('notifier')}/v1/webhook-endpoints", json=body)).raise_for_status()
