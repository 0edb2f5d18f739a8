"""How is a server started so that it never outlives its launcher? Edge: through a guard; see `guard`."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.local import guard
from deploy.local.errors import LocalServersError

_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 25


@dataclass(frozen=True)
class Owner:
    """Whom a process belongs to."""

    user: int
    group: int


def ourselves() -> Owner:
    return Owner(os.geteuid(), os.getegid())


def nobody() -> Owner:
    entry = pwd.getpwnam("nobody")
    return Owner(entry.pw_uid, entry.pw_gid)


@dataclass
class Process:
    """
    One server's process.

    *end_signal* is what it gets from `end`, or when the launcher is gone. *keeps_open* are file descriptors that stay
    open until the server is gone, whatever happens to the launcher.
    """

    name: str
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
            raise LocalServersError(f"{self.name} is not running")
        return self._pid

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        owner = f"{self.owner.user}:{self.owner.group}"
        with self.log.open("ab") as log:
            self._guard = _guard(
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
            raise LocalServersError(f"{self.name} could not be started:\n{self._last_lines()}")
        self._pid = int(said)

    def stop(self, number: signal.Signals) -> None:
        """Send the signal *number* and wait until the process is gone."""
        if self._guard is None:
            return
        self._signal(number)
        try:
            self._guard.wait(guard.GRACE_SECONDS)
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

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Wait until *ready*; a server that refuses connections, or answers halves, is not."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise LocalServersError(f"{self.name} ended while it was starting:\n{self._last_lines()}")
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(_POLL_SECONDS)
        raise LocalServersError(f"{self.name} was not ready after {timeout_seconds:.0f} s:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


@contextlib.contextmanager
def removed_afterwards(folder: Path) -> Iterator[Path]:
    """Delete *folder* at the end of the block, or of this process, however that comes."""
    janitor = _guard(["remove", str(folder)], output=subprocess.DEVNULL, log=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        janitor.communicate()


def _guard(
    arguments: Sequence[str],
    *,
    output: int,
    log: int,
    environment: Mapping[str, str] | None = None,
    keeps_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    # A session of its own keeps the terminal's Ctrl-C away; isolated and without site, Python starts in 15 ms.
    return subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-I", "-S", guard.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=log,
        env=environment,
        cwd="/",
        start_new_session=True,
        pass_fds=keeps_open,
    )
