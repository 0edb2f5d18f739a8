"""
Control socket of a running `modelswap up`: a Unix socket in its folder. Edge.

A client sends one line, the name of a process, and receives one JSON object: ``{}`` when it is ready again, or the
problem. One client at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from services.cli.problem import Problem

#: Exported to other terminals: the folder of the `up` whose settings they have.
UP_FOLDER: Final = "MODELSWAP_UP_FOLDER"
_SOCKET: Final = "up.socket"
_COMMAND_SECONDS: Final = 5.0
#: More than a restart takes until it is given up.
_ANSWER_SECONDS: Final = 120.0
_NONE_RUNS: Final = "modelswap up --embedded --state DIR in another terminal, then the same command again"


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """Yield a socket in *folder* that only its owner may connect to; delete it afterwards."""
    file = folder / _SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        file.unlink(missing_ok=True)  # of a run that was killed
        # A socket address has at most about 100 characters, and a folder may have more.
        with contextlib.chdir(folder):
            listener.bind(_SOCKET)
        file.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        try:
            yield listener
        finally:
            file.unlink(missing_ok=True)


async def serve(listener: socket.socket, restart: Callable[[str], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        with contextlib.suppress(OSError, TimeoutError, ValueError):  # the client is gone, silent, or no client
            async with asyncio.timeout(_COMMAND_SECONDS):
                name = (await reader.readline()).decode().strip()
            writer.write(json.dumps(await _answer(name, restart)).encode() + b"\n")
            await writer.drain()
        writer.close()


async def _answer(name: str, restart: Callable[[str], Awaitable[None]]) -> dict[str, str]:
    try:
        await restart(name)
    except Problem as problem:
        return {"problem": str(problem), "then": problem.then}
    return {}


def ask_to_restart(folder: Path, name: str) -> None:
    """Ask the `up` that runs with *folder* to restart a process; return when it is ready."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            with contextlib.chdir(folder):
                connection.connect(_SOCKET)
        except OSError as error:
            raise Problem(f"no `modelswap up` runs with {folder}", then=_NONE_RUNS) from error
        try:
            connection.sendall(f"{name}\n".encode())
            answer = connection.makefile().readline()
        except OSError as error:
            then = "read its output in that terminal"
            raise Problem(f"`modelswap up` in {folder} does not answer", then=then) from error
    if not answer:
        raise Problem(f"`modelswap up` in {folder} has ended", then=_NONE_RUNS)
    said = json.loads(answer)
    if said:
        raise Problem(said["problem"], then=said["then"])


def folder_of_up(state: Path | None) -> Path:
    """Return the folder of the `up` to control: *state*, or the exported one."""
    folder = state or os.environ.get(UP_FOLDER)
    if not folder:
        raise Problem(
            "which `modelswap up`? This terminal does not have its settings",
            then="`source` the file that `up` names at its start, or add --state DIR",
        )
    return Path(folder).absolute()
