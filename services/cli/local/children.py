"""Child processes: their output is passed on line by line, and none outlives the command. Edge."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from services.cli.local.stack import GENERATOR
from services.cli.problem import Problem
from shared.runtime import guard
from shared.runtime.client import HttpClient, Unanswered

_READY_SECONDS: Final = 180
_READY_POLL_SECONDS: Final = 0.1
#: More than a process needs to finish its work.
_STOP_SECONDS: Final = 15
_LONGEST_LINE: Final = 1024 * 1024
_REMEMBERED_LINES: Final = 10
_REMEMBERED_CHARACTERS: Final = 300
_AGAIN: Final = "fix that, then run the same command again"

#: Called with the name of a process and a line of its output.
Hear = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class _Child:
    name: str
    process: Process
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_LINES))

    async def listen(self, hear: Hear) -> int:
        """Pass on its output until it ends; return its exit code."""
        while text := await self._read_line():
            text = text.rstrip()
            self.last_lines.append(text[:_REMEMBERED_CHARACTERS])
            hear(self.name, text)
        return await self.process.wait()

    async def _read_line(self) -> str:
        """Return the next line with its line end, or nothing at the end of the output."""
        assert self.process.stdout is not None  # noqa: S101 (it was asked for)
        try:
            return (await self.process.stdout.readline()).decode("utf-8", "replace")
        except ValueError:
            return "(a line of more than 1 MiB)\n"


#: Of the processes that are no service.
_MODULES: Final = {GENERATOR: "deploy.examples.generator"}


class Children:
    """Processes ``python -m services.NAME``, as an async context manager that stops them all at its end."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        #: Each with the task that reads its output and ends with it.
        self._children: dict[str, tuple[_Child, asyncio.Task[int]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(*self._children)

    async def start(self, name: str, environment: Mapping[str, str]) -> None:
        """Start the process; an earlier one of that name must have ended."""
        process = await asyncio.create_subprocess_exec(
            # Asked by a program, not by a function between fork and exec: this process may have threads.
            *(sys.executable, "-I", "-S", guard.__file__, "become", str(os.getpid())),
            *(sys.executable, "-m", _MODULES.get(name, f"services.{name}")),
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            limit=_LONGEST_LINE,
            # Ctrl-C reaches this command only, which stops them.
            process_group=0,
        )
        child = _Child(name, process)
        self._children[name] = child, asyncio.create_task(child.listen(self._hear))

    async def stop(self, *names: str) -> None:
        """Terminate these processes; kill those that do not end in time."""
        alive = [(child, task) for name in names for child, task in [self._children[name]] if not task.done()]
        for child, _ in alive:
            _send(child.process.terminate)
        tasks = [task for _, task in alive]
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for child, task in alive:
            if not task.done():
                _send(child.process.kill)
        await asyncio.gather(*tasks)

    async def until_ready(self, urls: Mapping[str, str]) -> None:
        waiting = asyncio.gather(*map(wait_until_ready, urls.values()))
        death = asyncio.create_task(self.death(*urls))
        try:
            await asyncio.wait((waiting, death), timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                raise death.result()
            if not waiting.done():
                raise Problem(f"not ready after {_READY_SECONDS} s: {', '.join(urls)}", then="modelswap doctor")
            await waiting
        finally:
            for task in (waiting, death):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await waiting

    async def death(self, *names: str) -> Problem:
        """Wait until one of these processes (default: any) ends, and describe it as a problem."""
        tasks = {self._children[name][1]: self._children[name][0] for name in names or self._children}
        (task, *_), _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        child = tasks[task]
        said = "\n".join(f"  {line}" for line in child.last_lines) or "  (nothing)"
        return Problem(f"{child.name} ended with exit code {task.result()}. It said:\n{said}", then=_AGAIN)


async def wait_until_ready(url: str) -> None:
    """Return as soon as the process at *url* is ready. The caller sets the deadline."""
    async with HttpClient(url) as http:
        while True:
            with suppress(Unanswered):  # it does not listen yet
                if (await http.request("GET", "/readyz")).is_success:
                    return
            await asyncio.sleep(_READY_POLL_SECONDS)


def _send(signal_it: Callable[[], None]) -> None:
    with suppress(ProcessLookupError):
        signal_it()
