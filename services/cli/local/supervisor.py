"""
Supervisor: restart processes and private servers that end by themselves, and a process on request. Edge.

    running ──ends──▶ waiting ──delay──▶ running        the delay doubles with each quick end
       └───────on request─────────────▶ running         at once
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

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
        async def death() -> str:
            return str(await self._children.death(name))

        await _restart(death, partial(self._start, name), self._say)

    async def _start(self, name: str) -> None:
        await self._children.start(name, self._added.get(name) or self._plan.environment_of(name))


class Server(Protocol):
    """A private server."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def running(self) -> bool: ...

    def launch(self) -> None:
        """Start it again, on the same port and data, without waiting until it is ready."""

    def last_lines(self) -> str:
        """Return the end of its log."""


async def keep_server(server: Server, say: Callable[[str], object]) -> None:
    """Keep a private server running, which was started."""
    from deploy.local import LocalServersError  # noqa: PLC0415 (only the extra "local" has it)

    async def death() -> str:
        while server.running:  # noqa: ASYNC110 (the event is in another process)
            await asyncio.sleep(_LOOK_SECONDS)
        return f"{server.title} ended. It said:\n{server.last_lines()}"

    async def launch() -> None:
        try:
            await asyncio.to_thread(server.launch)
        except (LocalServersError, OSError) as error:  # such as a full disk
            say(f"{server.title} cannot be restarted: {error}")

    await _restart(death, launch, say)


async def _restart(
    death: Callable[[], Awaitable[str]], start: Callable[[], Awaitable[None]], say: Callable[[str], object]
) -> None:
    """Start again what ends; *death* waits for that, and returns how it ended and what it said."""
    loop, ends = asyncio.get_running_loop(), 0
    while True:
        began = loop.time()
        died = await death()
        ends = ends + 1 if loop.time() - began < _STEADY_SECONDS else 1
        delay = next_delay(ends)
        say(_report(died, ends, delay))
        await asyncio.sleep(delay)
        await start()


def _report(died: str, ends: int, delay: float) -> str:
    how, _, said = died.partition(". It said:\n")
    if ends < _MANY:
        return f"{how}; it is restarted in {delay:g} s"
    return f"{how}, {ends} times in a row soon after its start; it is restarted in {delay:g} s. It said:\n{said}"
