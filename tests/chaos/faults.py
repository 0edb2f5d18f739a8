"""What strikes the processes, their servers and the connections between them, by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

import asyncpg

from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from tests.erlang import evaluate
from tests.proxy import Proxy
from tests.stack import Process


class Kind(StrEnum):
    """What may happen."""

    KILL = "kill"  #: SIGKILL; the process is started again.
    FREEZE = "freeze"  #: SIGSTOP, then SIGCONT.
    CUT = "cut"  #: All connections of a proxy end.
    STALL = "stall"  #: A proxy hands on nothing for a while.
    TERMINATE = "terminate"  #: Postgres ends all of its connections.
    POSTGRES = "crash postgres"
    RABBITMQ = "crash rabbitmq"
    MEMORY = "memory alarm"
    DISK = "disk alarm"


#: The servers' faults take seconds, so they are rare.
_WEIGHTS: Final[Mapping[Kind, int]] = {
    Kind.KILL: 9,
    Kind.FREEZE: 6,
    Kind.CUT: 8,
    Kind.STALL: 6,
    Kind.TERMINATE: 2,
    Kind.POSTGRES: 1,
    Kind.RABBITMQ: 1,
    Kind.MEMORY: 1,
    Kind.DISK: 1,
}
#: So many trainings are requested between two faults.
_PAUSE: Final = (3, 11)
_POLL_SECONDS: Final = 0.05
_LASTS_SECONDS: Final = (0.2, 4.0)
#: What ends an alarm: the limits of `deploy.local`.
_ALARMS: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.MEMORY: (
        "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})",
        "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1000000000})",
    ),
    Kind.DISK: (
        'rabbit_disk_monitor:set_disk_free_limit("1000TB")',
        'rabbit_disk_monitor:set_disk_free_limit("50MB")',
    ),
}


@dataclass(frozen=True)
class Fault:
    """One thing that happens, *after* so many trainings were requested: on a slow machine as often as on a fast one."""

    after: int
    kind: Kind
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"after {self.after} trainings: {self.kind} {self.target} for {self.seconds:.1f} s"


@dataclass
class Targets:
    """What can be struck, by name."""

    processes: Mapping[str, Process]
    #: Where each of them listens.
    ports: Mapping[str, int]
    proxies: Mapping[str, Proxy]
    nodes: Mapping[str, RabbitMQ]
    postgres: Postgres
    #: Of the product; past all proxies.
    database_url: str
    #: Processes that ended without being killed.
    died: list[str] = field(default_factory=list)

    def names(self, kind: Kind) -> Sequence[str]:
        """What a fault of this *kind* can strike."""
        if kind in (Kind.KILL, Kind.FREEZE):
            return sorted(self.processes)
        if kind in (Kind.CUT, Kind.STALL):
            return sorted(self.proxies)
        return sorted(self.nodes) if kind in (Kind.RABBITMQ, *_ALARMS) else ["postgres"]


def schedule(seed: int, trainings: int, targets: Targets) -> list[Fault]:
    """What happens while so many *trainings* are requested: every kind once, and then as it comes."""
    dice = Random(f"{seed}:faults")
    kinds = list(Kind)
    dice.shuffle(kinds)
    faults: list[Fault] = []
    after = 0
    while (after := after + dice.randint(*_PAUSE)) < trainings:
        kind = kinds.pop() if kinds else dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        faults.append(Fault(after, kind, dice.choice(targets.names(kind)), dice.uniform(*_LASTS_SECONDS)))
    return faults


async def strike(faults: Sequence[Fault], targets: Targets, requested: Callable[[], int]) -> None:
    """
    Let *faults* happen, several at a time where they strike different things; in the end all is as before.

    *requested* says how many trainings are requested by now.
    """
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def one(fault: Fault) -> None:
        while requested() < fault.after:
            await asyncio.sleep(_POLL_SECONDS)
        # A node that is being started evaluates nothing, and alarms of one node are of all.
        struck = "rabbitmq" if fault.target in targets.nodes else fault.target
        async with locks[struck], _STRIKES[fault.kind](fault, targets):
            await asyncio.sleep(fault.seconds)

    async with asyncio.TaskGroup() as tasks:
        for fault in faults:
            tasks.create_task(one(fault))


@contextlib.asynccontextmanager
async def _kill(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    process = targets.processes[fault.target]
    if not process.is_alive:
        targets.died.append(fault.target)
    process.kill()
    try:
        yield
    finally:
        process.start()
    await _until_listening(process, targets.ports[fault.target])


async def _until_listening(process: Process, port: int) -> None:
    """On a busy machine a process needs longer to start than the next one to be killed."""
    while process.is_alive:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(_POLL_SECONDS)


@contextlib.asynccontextmanager
async def _freeze(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    pid = targets.processes[fault.target].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def _cut(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    targets.proxies[fault.target].cut()
    yield


@contextlib.asynccontextmanager
async def _stall(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    proxy = targets.proxies[fault.target]
    proxy.hold()
    try:
        yield
    finally:
        proxy.resume()


@contextlib.asynccontextmanager
async def _terminate(_: Fault, targets: Targets) -> AsyncIterator[None]:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(targets.database_url)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()
    yield


@contextlib.asynccontextmanager
async def _crash_postgres(_: Fault, targets: Targets) -> AsyncIterator[None]:
    async with _crashed(targets.postgres.kill, targets.postgres.start):
        yield


@contextlib.asynccontextmanager
async def _crash_rabbitmq(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    node = targets.nodes[fault.target]
    async with _crashed(node.kill, node.start):
        yield


@contextlib.asynccontextmanager
async def _crashed(kill: Callable[[], None], start: Callable[[], None]) -> AsyncIterator[None]:
    await asyncio.to_thread(kill)
    try:
        yield
    finally:
        await asyncio.shield(asyncio.to_thread(start))


@contextlib.asynccontextmanager
async def _alarm(fault: Fault, targets: Targets) -> AsyncIterator[None]:
    node = targets.nodes[fault.target]
    raising, ending = _ALARMS[fault.kind]
    evaluate(node, raising)
    try:
        yield
    finally:
        evaluate(node, ending)


_Strike = Callable[[Fault, Targets], contextlib.AbstractAsyncContextManager[None]]
_STRIKES: Final[Mapping[Kind, _Strike]] = {
    Kind.KILL: _kill,
    Kind.FREEZE: _freeze,
    Kind.CUT: _cut,
    Kind.STALL: _stall,
    Kind.TERMINATE: _terminate,
    Kind.POSTGRES: _crash_postgres,
    Kind.RABBITMQ: _crash_rabbitmq,
    Kind.MEMORY: _alarm,
    Kind.DISK: _alarm,
}
