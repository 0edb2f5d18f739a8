"""
Talk to the `modelswap up` that runs with a folder. Edge: a Unix socket in that folder.

A client sends a command and a process's name on one line, such as ``restart extractor``, and is answered with one JSON
object: ``{}`` when it is done, or the problem. One client after the other.
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

#: To another terminal it says the folder of the `up` whose settings it has.
UP_FOLDER: Final = "MODELSWAP_UP_FOLDER"
_SOCKET: Final = "up.socket"
_COMMAND_SECONDS: Final = 5.0
#: More than a restart takes that is given up.
_ANSWER_SECONDS: Final = 120.0
_NONE_RUNS: Final = "modelswap up --embedded --state DIR in another terminal, then the same command again"


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """A socket in *folder* that only its owner may connect to; gone afterwards."""
    file = folder / _SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        file.unlink(missing_ok=True)  # of a run that was killed
        # An address has at most 100 or so characters, and a folder may have more.
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
    """Do what clients ask, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        with contextlib.suppress(OSError, TimeoutError, ValueError):  # the client is gone, silent, or no client
            async with asyncio.timeout(_COMMAND_SECONDS):
                command = (await reader.readline()).decode().split()
            writer.write(json.dumps(await _answer(command, restart)).encode() + b"\n")
            await writer.drain()
        writer.close()


async def _answer(command: list[str], restart: Callable[[str], Awaitable[None]]) -> dict[str, str]:
    match command:
        case ["restart", name]:
            try:
                await restart(name)
            except Problem as problem:
                return {"problem": str(problem), "then": problem.then}
            return {}
    return {"problem": f"no such command: {' '.join(command)!r}", "then": "modelswap up --help"}


async def ask_to_restart(folder: Path, name: str) -> None:
    """
    Have the `up` that runs with *folder* restart a process, and return when that is ready.

    Raises:
        Problem: if none runs, it does not know the process, or that does not become ready.

    """
    connection = _connect(folder)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        writer.write(f"restart {name}\n".encode())
        async with asyncio.timeout(_ANSWER_SECONDS):
            answer = await reader.readline()
    except (OSError, TimeoutError) as error:
        raise Problem(f"`modelswap up` in {folder} does not answer", then="see what it says there") from error
    finally:
        writer.close()
    if not answer:
        raise Problem(f"`modelswap up` in {folder} has ended meanwhile", then=_NONE_RUNS)
    said = json.loads(answer)
    if said:
        raise Problem(said["problem"], then=said["then"])


def _connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.chdir(folder):
            connection.connect(_SOCKET)
    except OSError as error:
        connection.close()
        raise Problem(f"no `modelswap up` runs with {folder}", then=_NONE_RUNS) from error
    connection.setblocking(False)
    return connection


def folder_of_up(state: Path | None) -> Path:
    """
    Return the folder of the `up` that is meant: *state*, or what its exported settings say.

    Raises:
        Problem: if neither says.

    """
    given = os.environ.get(UP_FOLDER)
    if state is None and not given:
        raise Problem(
            "which `modelswap up`? This terminal does not have its settings",
            then="`source` the file that `up` names at its start, or add --state DIR",
        )
    return (state or Path(str(given))).absolute()
