"""
The folder and ports of private servers. Edge: the file system.

A kept state keeps its ports and its password too: RabbitMQ's node name, and with it the place of its data, contains a
port, and it makes its user only at the first start.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from deploy.local.errors import LocalServersError, Say
from deploy.local.lock import locked
from shared.runtime.guarded import removed_afterwards
from shared.runtime.ports import free_ports, reserve
from shared.runtime.private_files import write_private

#: Time for the servers of a killed run to shut down cleanly.
_WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Ports:
    """Ports of the servers; *distribution* and *epmd* are RabbitMQ's own."""

    postgres: int
    amqp: int
    management: int
    distribution: int
    epmd: int


@dataclass(frozen=True)
class State:
    """Folder and ports of servers. *locks* are file descriptors that stay open as long as one of them runs."""

    folder: Path
    kept: bool
    ports: Ports
    password: str
    locks: tuple[int, ...] = ()


@contextlib.contextmanager
def temporary_state() -> Iterator[State]:
    """Yield a folder that is deleted afterwards, even after ``kill -9``."""
    with removed_afterwards(Path(tempfile.mkdtemp(prefix="modelswap-"))) as folder, _new_ports() as ports:
        folder.chmod(0o711)  # Postgres may run as another user: it may pass, not list
        yield State(folder, kept=False, ports=ports, password=_new_password())


@contextlib.contextmanager
def kept_state(folder: Path, say: Say) -> Iterator[State]:
    """Yield *folder* as an earlier run left it, or new. One run at a time has it."""
    folder = folder.absolute()
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711)
    with contextlib.ExitStack() as stack:
        try:
            # The servers of an earlier run hold it too, until they are gone.
            lock = stack.enter_context(
                locked(
                    folder / "lock",
                    waiting=lambda: say(f"waiting for the servers of another run in {folder} to end"),
                    timeout_seconds=_WAIT_SECONDS,
                )
            )
        except TimeoutError:
            raise LocalServersError(f"the servers of another run use {folder}: end that run first") from None
        file = folder / "servers.json"
        if file.exists():
            kept = json.loads(file.read_text())
            ports, password = Ports(**kept["ports"]), kept["password"]
            for server, port in asdict(ports).items():
                if not reserve(port, stack):
                    raise LocalServersError(
                        f"port {port}, {server}'s in this state, is used by another program: end that"
                    )
        else:
            ports, password = stack.enter_context(_new_ports()), _new_password()
            write_private(file, json.dumps({"ports": asdict(ports), "password": password}))
        yield State(folder, kept=True, ports=ports, password=password, locks=(lock,))


def _new_password() -> str:
    return secrets.token_urlsafe(18)


@contextlib.contextmanager
def _new_ports() -> Iterator[Ports]:
    with free_ports(len(fields(Ports))) as ports:
        yield Ports(*ports)
