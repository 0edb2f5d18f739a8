"""
The code of the release before, from git: its processes and commands, each in an interpreter of its own.

It is the last tag of a version (v1.2.3) before this commit; as long as there is none, the commit that
`tests/release-before.txt` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest

from tests.forks import ROOT
from tests.stack import Process

_NAMED: Final = ROOT / "tests" / "release-before.txt"
#: Ends with the tests, as forks do.
_RUN: Final = """
import runpy, sys
from shared.runtime.guard import die_with_parent
die_with_parent(int(sys.argv.pop(1)), 9)
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def unpack(folder: Path) -> Path:
    """Write the release before to *folder*; without its history in this clone, the test is skipped with the reason."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    revision = tag.decode().strip() if tag else _NAMED.read_text().strip()
    archive = _git("archive", "--format=tar", revision)
    if not archive:
        pytest.skip(f"no history of {revision} in this clone: `git fetch --unshallow --tags`")
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> bytes:
    """What git answers; nothing if it fails, or is missing."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def run_command(code: Path, environment: Mapping[str, str], *arguments: str) -> None:
    """Run ``modelswap`` of the release before."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    done = subprocess.run(command, cwd=code, env=_environment(code, environment), capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(code: Path, given: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(map(str, (code, code / "shared" / "subscriber")))
    return {**os.environ, **given, "PYTHONPATH": path}


class _Interpreter:
    """A running process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, timeout: float) -> None:
        self._process.wait(timeout)


class ProcessOfBefore(Process):
    """A process of the release before."""

    def __init__(self, process: Process, code: Path) -> None:
        """Take the place of *process*, with the same settings."""
        super().__init__(process.name, process.environment, process.log)
        self._code = code

    def start(self) -> None:
        command = [sys.executable, "-c", _RUN, str(os.getpid()), self._module]
        environment = _environment(self._code, self.environment)
        with self.log.open("ab") as log:
            self._running = _Interpreter(
                subprocess.Popen(command, cwd=self._code, env=environment, stdout=log, stderr=log)
            )
