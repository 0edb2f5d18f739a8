"""
Supervisor: restart processes and private servers that end by themselves, and a process on request. Edge.

    running ──ends──▶ waiting ──delay──▶ running        the delay doubles with each quick end
       └───────on request─────────────▶ running         at once
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeVar

from services.cli.local.children import Children
from services.cli.local.stack import Environment, Plan
from services.cli.problem import Problem
from shared.runtime.waiting import backoff_seconds

_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
#: After running this long, the next end is not a quick one.
_STEADY_SECONDS: Final = 60.0
#: From this many quick ends in a row, each is reported with the last lines of output.
_MANY: Final = 3
_LOOK_SECONDS: Final = 0.5

Death = TypeVar("Death")


def next_delay(ends: int) -> float:
    """Return the seconds to wait after *ends* quick ends in a row."""
    return backoff_seconds(ends, first=_FIRST_DELAY_SECONDS, longest=_LONGEST_DELAY_SECONDS)


class Supervisor:
    """
    Keeps the processes of *plan* running, which were started as *children*.

    Its tasks belong to *group*; it reports with *say*.
    """

    def __init__(self, children: Children, plan: Plan, group: asyncio.TaskGroup, say: Callable[[str], object]) -> None:
        self._children = children
        self._plan = plan
        self._say = say
        self._group = group
        #: The environments of the processes that are not in *plan*.
        self._added: dict[str, Environment] = {}
        self._tasks = {name: group.create_task(self._keep(name)) for name in plan.services}

    async def add(self, name: str, environment: Environment) -> None:
        """Start one more process, and keep it running."""
        self._added[name] = environment
        await self._start(name)
        self._tasks[name] = self._group.create_task(self._keep(name))

    async def restart(self, name: str) -> None:
        """Stop a process, start it, and return when it is ready."""
        if name not in self._plan.services:
            raise Problem(
                f"there is no process {name!r}, only {', '.join(self._plan.services)}", then="modelswap up --help"
            )
        self._say(f"{name} is restarted")
        keeping = self._tasks[name]
        keeping.cancel()
        await asyncio.wait([keeping])
        try:
            await self._children.stop(name)
            await self._start(name)
        finally:
            self._tasks[name] = self._group.create_task(self._keep(name))
        await self._children.until_ready({name: self._plan.urls[name]})

    async def _keep(self, name: str) -> None:
        def report(death: Problem, ends: int, delay: float) -> None:
            self._say(_report(death, ends, delay))

        await _restart(partial(self._children.death, name), partial(self._start, name), report)

    async def _start(self, name: str) -> None:
        await self._children.start(name, self._added.get(name) or self._plan.environment_of(name))


def _report(death: Problem, ends: int, delay: float) -> str:
    how, _, said = str(death).partition(". It said:\n")
    if ends < _MANY:
        return f"{how}; it is restarted in {delay:g} s"
    return f"{how}, {ends} times in a row soon after its start; it is restarted in {delay:g} s. It said:\n{said}"


class Server(Protocol):
    """A private server."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def running(self) -> bool: ...

    def launch(self) -> None:
        """Start it again, on the same port and data, without waiting until it is ready."""


async def keep_server(server: Server, say: Callable[[str], object]) -> None:
    """Keep a private server running, which was started."""
    from deploy.local import LocalServersError  # noqa: PLC0415 (only the extra "local" has it)

    async def death() -> None:
        while server.running:  # noqa: ASYNC110 (the event is in another process)
            await asyncio.sleep(_LOOK_SECONDS)

    async def launch() -> None:
        try:
            await asyncio.to_thread(server.launch)
        except LocalServersError as error:
            say(str(error))

    def report(_: None, __: int, delay: float) -> None:
        say(f"{server.title} ended; it is restarted in {delay:g} s")

    await _restart(death, launch, report)


async def _restart(
    death: Callable[[], Awaitable[Death]],
    start: Callable[[], Awaitable[None]],
    report: Callable[[Death, int, float], None],
) -> None:
    """Start again what ends; *report* is called with the death, the number of quick ends in a row, and the delay."""
    loop, ends = asyncio.get_running_loop(), 0
    while True:
        began = loop.time()
        died = await death()
        ends = ends + 1 if loop.time() - began < _STEADY_SECONDS else 1
        delay = next_delay(ends)
        report(died, ends, delay)
        await asyncio.sleep(delay)
        await start()
