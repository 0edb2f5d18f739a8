"""`modelswap up --embedded` as a person at two terminals sees it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from tests.proc import look_into
from tests.stack import plain_client

SERVICES: Final = ("receiver", "extractor", "state", "ops", "notifier", "simulator")
_LAST_LINE: Final = "Ctrl-C stops everything."


def without_settings() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("MODELSWAP_")}


def children_of(pid: int) -> list[int]:
    """The process ids of those that its threads have started."""
    threads = sorted(each.name for each in Path(f"/proc/{pid}/task").glob("*"))
    return [int(child) for each in threads for child in look_into(f"/proc/{pid}/task/{each}/children").split()]


class Talking:
    """A process that runs, and the lines that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._grew = asyncio.Condition()
        self._reading = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[str]) -> None:
        assert stream is not None
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))
            async with self._grew:
                self._grew.notify_all()
        async with self._grew:
            self._grew.notify_all()

    async def until_said(self, text: str, *, after: int = 0, seconds: float = 300) -> str:
        """Wait until it writes a line with *text* for people, not counting the first lines; return that line."""

        def found() -> list[str]:
            said = [*self.err[after:], *self.out[after:]]
            return [line for line in said if text in line] or ([""] if self._reading[0].done() else [])

        try:
            async with asyncio.timeout(seconds), self._grew:
                await self._grew.wait_for(found)
        except TimeoutError:
            raise AssertionError(f"{text!r} was not said:\n" + "\n".join([*self.out, *self.err][-40:])) from None
        assert found() != [""], "\n".join([*self.out, *self.err][-40:])
        return found()[0]

    async def stop(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await asyncio.gather(*self._reading)
            return await self.process.wait()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._reading)


class Up(Talking):
    """One that runs, and another terminal with its settings."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path, folder: Path) -> None:
        super().__init__(process)
        self.state = state
        self._folder = folder

    def exported(self) -> dict[str, str]:
        """The settings that its file exports to another terminal."""
        lines = (self.state / "env").read_text().splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export MODELSWAP_"))

    def child(self, name: str) -> int:
        """The process id of a service; 0 while there is none."""
        children = children_of(self.process.pid)
        found = [child for child in children if f"services.{name}" in look_into(f"/proc/{child}/cmdline")]
        return found[0] if found else 0

    def server(self, name: str) -> int:
        """The process id of a private server, whose command has *name*; 0 while there is none."""
        for guard in children_of(self.process.pid):
            if "guard.py\0run" in look_into(f"/proc/{guard}/cmdline"):
                for child in children_of(guard):
                    if name in look_into(f"/proc/{child}/cmdline"):
                        return child
        return 0

    async def type(self, script: str, *, seconds: float = 180) -> tuple[int, str]:
        """
        Have the shell of a new terminal, in the same folder, run *script*; its exit code and all it wrote.

        Raises:
            AssertionError: with what it wrote so far, if it takes longer than so many *seconds*.

        """
        shell = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            cwd=self._folder,
            env={**without_settings(), "PYTHONPATH": str(self._folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert shell.stdout is not None
        out = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while part := await shell.stdout.read(65536):
                    out += part
                return await shell.wait(), out.decode()
        except TimeoutError:
            raise AssertionError(
                f"it did not end within {seconds} s, and said:\n{out.decode(errors='replace')}"
            ) from None
        finally:
            if shell.returncode is None:
                # With the commands that it runs.
                os.killpg(shell.pid, signal.SIGKILL)
                await shell.wait()

    async def modelswap(self, *arguments: str) -> tuple[int, str]:
        """Run a command in another terminal that has sourced the file."""
        typed = shlex.join(("modelswap", *arguments))
        return await self.type(f"source {shlex.quote(str(self.state / 'env'))} && {typed}")

    async def ask(self, service: str, path: str, *, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a service answers to *path*, as the product; None, if it does not answer well."""
        settings = self.exported()
        urls = {
            "receiver": "MODELSWAP_RECEIVER_URL",
            "state": "MODELSWAP_API_URL",
            "simulator": "MODELSWAP_REPLICATE_API_URL",
        }
        headers = {"Authorization": f"Bearer {settings['MODELSWAP_API_TOKENS']}"}
        with suppress(httpx.TransportError):
            async with plain_client(base_url=settings[urls[service]], headers=headers) as http:
                answer = await (http.get(path) if body is None else http.post(path, json=body))
                if answer.is_success:
                    return json.loads(answer.text)
        return None


@asynccontextmanager
async def up(state: Path, folder: Path, settings: Mapping[str, str], *options: str) -> AsyncIterator[Up]:
    """Everything, as soon as it is ready, with the code in *folder*."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--embedded", "--state", str(state), *options),
        cwd=folder,
        env={**without_settings(), "PYTHONPATH": str(folder), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
        # As a shell starts what a script puts into the background.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    running = Up(process, state, folder)
    try:
        await running.until_said(_LAST_LINE)
        yield running
    finally:
        await running.end()
