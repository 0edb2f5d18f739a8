"""A private server: a process that ends with its launcher. Edge: started through `shared.runtime.guard`."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.local.errors import LocalServersError
from shared.runtime.guard import GRACE_SECONDS
from shared.runtime.guarded import start_guard

_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 25
_READY_SECONDS: Final = 120


@dataclass(frozen=True)
class Owner:
    """User and group of a process."""

    user: int
    group: int


def ourselves() -> Owner:
    return Owner(os.geteuid(), os.getegid())


def nobody() -> Owner:
    entry = pwd.getpwnam("nobody")
    return Owner(entry.pw_uid, entry.pw_gid)


@dataclass(eq=False, repr=False)
class Process:
    """
    One server's process, which can be started again.

    *end_signal* ends it, from `end` or when the launcher is gone. *keeps_open* are file descriptors that stay open
    until the server is gone, even if the launcher ends before.
    """

    #: What messages call it.
    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    end_signal: signal.Signals
    owner: Owner = field(default_factory=ourselves)
    keeps_open: Sequence[int] = ()
    _guard: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pid: int = field(default=0, init=False)

    @property
    def pid(self) -> int:
        """The server's own process id, not its guard's."""
        if not self.running:
            raise LocalServersError(f"{self.title} is not running")
        return self._pid

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, without waiting until it is ready."""
        self.end()
        owner = f"{self.owner.user}:{self.owner.group}"
        with self.log.open("ab") as log:
            self._guard = start_guard(
                ["run", str(int(self.end_signal)), owner, *self.command],
                environment=self.environment,
                output=subprocess.PIPE,
                log=log.fileno(),
                keeps_open=self.keeps_open,
            )
        assert self._guard.stdout is not None  # noqa: S101 (it is a pipe, as asked for)
        said = self._guard.stdout.readline()
        if not said:
            self.end()
            raise LocalServersError(f"{self.title} could not be started:\n{self.last_lines()}")
        self._pid = int(said)

    def is_ready(self) -> bool:
        """Return whether it takes connections; an OSError, such as a refused connection, means that it does not yet."""
        return self.running

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise LocalServersError(f"{self.title} ended while it was starting:\n{self.last_lines()}")
            with contextlib.suppress(OSError):
                if self.is_ready():
                    return
            time.sleep(_POLL_SECONDS)
        raise LocalServersError(f"{self.title} was not ready after {_READY_SECONDS} s:\n{self.last_lines()}")

    def end_by(self, number: signal.Signals) -> None:
        """Send the signal *number* and wait until the process is gone."""
        if self._guard is None:
            return
        self._signal(number)
        try:
            self._guard.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        self.end()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(self._pid, number)

    def end(self) -> None:
        """Let the guard end the process, as it does when the launcher is gone."""
        if self._guard is not None:
            self._guard.communicate()
            self._guard = None

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
