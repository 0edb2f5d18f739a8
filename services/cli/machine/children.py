"""How do several processes run as one? Edge: each speaks with its name, and none outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

from deploy.local.guard import die_with_parent
from services.cli.client import wait_until_ready
from services.cli.problem import Problem

_READY_SECONDS: Final = 60
#: More than a process takes to finish what it began.
_STOP_SECONDS: Final = 15
_LONGEST_LINE: Final = 1024 * 1024
_REMEMBERED_LINES: Final = 10
_REMEMBERED_CHARACTERS: Final = 300
_AGAIN: Final = "put that right, then run the same command again"

#: Takes a process's name and one line that it wrote.
Hear = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class _Child:
    name: str
    process: Process
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_LINES))

    async def listen(self, hear: Hear) -> int:
        """Pass on what it writes until it ends; its exit code."""
        assert self.process.stdout is not None  # noqa: S101 (it was asked for)
        while line := await self.process.stdout.readline():
            text = line.decode("utf-8", "replace").rstrip()
            self.last_lines.append(text[:_REMEMBERED_CHARACTERS])
            hear(self.name, text)
        return await self.process.wait()


class Children:
    """Processes ``python -m services.NAME``, as an async context manager that stops them all at its end."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        #: By the task that listens to each and ends with it.
        self._children: dict[asyncio.Task[int], _Child] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        alive = [task for task in self._children if not task.done()]
        for task in alive:
            _send(self._children[task].process.terminate)
        if alive:
            await asyncio.wait(alive, timeout=_STOP_SECONDS)
            for task in alive:
                if not task.done():
                    _send(self._children[task].process.kill)
            await asyncio.gather(*alive)

    async def start(self, name: str, environment: Mapping[str, str]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"services.{name}",
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            limit=_LONGEST_LINE,
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
            # Ctrl-C is for us; we tell them.
            process_group=0,
        )
        child = _Child(name, process)
        self._children[asyncio.create_task(child.listen(self._hear))] = child

    async def until_ready(self, urls: Mapping[str, str]) -> None:
        """
        Wait until every one of *urls* says that it is ready.

        Raises:
            Problem: if a process ends instead, or one takes too long.

        """
        waiting = asyncio.gather(*map(wait_until_ready, urls.values()))
        death = asyncio.create_task(self.death())
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

    async def death(self) -> Problem:
        """Wait until one of the processes ends, and say which and how."""
        (task, *_), _ = await asyncio.wait(self._children, return_when=asyncio.FIRST_COMPLETED)
        child = self._children[task]
        said = "\n".join(f"  {line}" for line in child.last_lines) or "  (nothing)"
        return Problem(f"{child.name} ended with exit code {task.result()}. It said:\n{said}", then=_AGAIN)


def _send(signal_it: Callable[[], None]) -> None:
    with suppress(ProcessLookupError):
        signal_it()
