"""
Starts the guard, which cleans up when this process ends, even after ``kill -9``. Edge; standard library only.

The guard holds one end of a pipe and this process the other; see `guard`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shared.runtime import guard


@contextlib.contextmanager
def removed_afterwards(folder: Path) -> Iterator[Path]:
    """Delete *folder* at the end of the block, or of this process, however that comes."""
    janitor = start_guard(["remove", str(folder)], output=subprocess.DEVNULL, log=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        janitor.communicate()


def start_guard(
    arguments: Sequence[str],
    *,
    output: int,
    log: int,
    environment: Mapping[str, str] | None = None,
    keeps_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``guard.py`` with *arguments*; it acts when its standard input is closed."""
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
