"""
Guard: a process between a launcher and its server that ends the server when the launcher is gone, even after a SIGKILL.

Edge; standard library only. It is run by its path, see `guarded`:

    guard.py run SIGNAL UID:GID COMMAND...    start COMMAND as that user, say its pid; at end of input, send it SIGNAL
    guard.py remove FOLDER                    at end of input, delete FOLDER
    guard.py become LAUNCHER COMMAND...       become COMMAND, which Linux kills when the process LAUNCHER ends

The launcher holds the only other end of the first two's standard input. However the launcher ends, the kernel closes
that end, and the guard acts. Should the guard itself be killed, Linux signals the server on its behalf.

Why not that Linux signal alone for servers (2026-11): it does not exist on macOS, and it is tied to the thread that
started the child, so a server started from a worker thread would die with the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final, NoReturn

#: How long a server may take to stop before it is killed.
GRACE_SECONDS: Final = 15.0
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process the signal *number* when *parent* ends (on Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def run(stop_signal: int, user: int, group: int, command: list[str]) -> int:
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        _become(guard, stop_signal, user, group, command)
    threading.Thread(target=_stop_at_end_of_input, args=(server, stop_signal), daemon=True).start()
    with contextlib.suppress(OSError):  # a launcher that is gone already does not read
        os.write(1, b"%d\n" % server)
    _, status = os.waitpid(server, 0)
    return os.waitstatus_to_exitcode(status)


def _become(guard: int, stop_signal: int, user: int, group: int, command: list[str]) -> NoReturn:
    try:
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if os.geteuid() != user:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
        die_with_parent(guard, stop_signal)  # only now: changing the user clears it
        os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _stop_at_end_of_input(server: int, stop_signal: int) -> None:
    _wait_for_end_of_input()
    os.kill(server, stop_signal)
    time.sleep(GRACE_SECONDS)
    os.kill(server, signal.SIGKILL)


def remove(folder: Path) -> None:
    """Delete *folder*, also while servers that are just ending still write to it."""
    _wait_for_end_of_input()
    deadline = time.monotonic() + 2 * GRACE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def _wait_for_end_of_input() -> None:
    while os.read(0, 1):
        pass


def main(arguments: list[str]) -> int:
    match arguments:
        case ["run", stop_signal, owner, *command]:
            user, group = map(int, owner.split(":"))
            return run(int(stop_signal), user, group, command)
        case ["remove", folder]:
            remove(Path(folder))
            return 0
        case ["become", launcher, *command]:
            die_with_parent(int(launcher), signal.SIGKILL)
            os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
