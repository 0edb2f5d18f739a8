"""A private Postgres: start, crash, stop, start again. Edge."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.local.binaries import PostgresBinaries
from deploy.local.errors import LocalServersError
from deploy.local.process import Process, nobody, ourselves
from deploy.local.state import State

#: Names of signals that mean something else to Postgres than to most. SIGTERM would wait for its clients to leave.
_FAST_STOP: Final = signal.SIGINT
_CRASH: Final = signal.SIGQUIT  # not SIGKILL, which leaves its shared memory behind
_SSL_REQUEST: Final = (8).to_bytes(4) + (80877103).to_bytes(4)


class Postgres(Process):
    """One private Postgres. *durable*: a commit survives a crash of the machine, not only of Postgres."""

    def __init__(self, binaries: PostgresBinaries, state: State, *, durable: bool, options: Mapping[str, str]) -> None:
        self.binaries = binaries
        self._state = state
        self._folder = state.folder / "postgres"
        # A stray PGDATA or PGHOST must not leak in.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        super().__init__(
            "Postgres",
            [],  # known at launch
            {**environment, "LC_ALL": "C"},
            log=self._folder / "log",
            end_signal=_FAST_STOP if state.kept else _CRASH,
            owner=nobody() if _is_root() else ourselves(),  # Postgres refuses to run as root
            keeps_open=state.locks,
        )
        self._options = {
            "listen_addresses": "127.0.0.1",
            "port": str(state.ports.postgres),
            "unix_socket_directories": "",  # a socket's path may have 107 bytes, a temporary folder's more
            "max_connections": "200",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **options,
        }

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._state.password}@127.0.0.1:{self._state.ports.postgres}/postgres"

    def stop(self) -> None:
        """Shut it down cleanly; clients are disconnected."""
        self.end_by(_FAST_STOP)

    def kill(self) -> None:
        """Crash it: at its next start it has to recover."""
        self.end_by(_CRASH)

    def launch(self) -> None:
        self.end()
        programs = self._programs()
        if not (self._folder / "data" / "PG_VERSION").exists():
            self._create(programs)
        settings = [argument for name, value in self._options.items() for argument in ("-c", f"{name}={value}")]
        self.command = [str(programs / "postgres"), "-D", str(self._folder / "data"), *settings]
        super().launch()

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._state.ports.postgres), timeout=1) as connection:
            connection.sendall(_SSL_REQUEST)
            if connection.recv(1) not in (b"N", b"S"):
                return False
        # It answers while it still recovers. The last line of this file knows.
        return (self._folder / "data" / "postmaster.pid").read_text().split()[-1] in ("ready", "standby")

    def _programs(self) -> Path:
        """Return the folder of the programs; a copy if user *nobody* cannot reach it, such as a venv below /root."""
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o711)
        if not _is_root():
            return self.binaries.folder
        if not _all_can_walk_to(self._folder):
            raise LocalServersError(
                f"Postgres does not run as root, and other users cannot get to {self._folder}: "
                f"choose a folder that they can walk to, such as one below /var/tmp"
            )
        if self.binaries.package is None or _all_can_walk_to(self.binaries.folder):
            return self.binaries.folder
        package = self.binaries.package
        for folder in (package, package.with_name(f"{package.name}.libs")):
            copy = self._folder / folder.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy, symlinks=True)
        return self._folder / self.binaries.folder.relative_to(package.parent)

    def _create(self, programs: Path) -> None:
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self._state.password)
        os.chown(password, self.owner.user, self.owner.group)
        initdb = [str(programs / "initdb"), f"--pgdata={self._make_data()}", "--username=postgres"]
        initdb += [f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        initdb += [] if self._state.kept else ["--no-sync"]
        try:
            self._run(initdb, "make its data folder")
        finally:
            password.unlink()

    def _make_data(self) -> Path:
        data = self._folder / "data"
        shutil.rmtree(data, ignore_errors=True)  # incomplete, from an interrupted run; or a standby's old one
        data.mkdir(mode=0o700)
        os.chown(data, self.owner.user, self.owner.group)
        return data

    def _run(self, command: Sequence[str], purpose: str) -> None:
        """Run a program of Postgres as its owner."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd="/",
            user=self.owner.user if _is_root() else None,
            group=self.owner.group if _is_root() else None,
            extra_groups=[] if _is_root() else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalServersError(f"Postgres could not {purpose}: {done.stderr.strip()}")


def _is_root() -> bool:
    return os.geteuid() == 0


def _all_can_walk_to(folder: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))
