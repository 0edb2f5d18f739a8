"""A lock between processes, released by the kernel when its holder ends. Edge."""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.1


@contextlib.contextmanager
def locked(file: Path, *, waiting: Callable[[], object], timeout_seconds: float = math.inf) -> Iterator[int]:
    """
    Hold the lock in *file*; call *waiting* once before waiting for another holder.

    Yields the file descriptor: a child that inherits it holds the lock as well.

    Raises: TimeoutError.
    """
    with file.open("w") as lock:
        if not _try(lock.fileno()):
            waiting()
            deadline = time.monotonic() + timeout_seconds
            while not _try(lock.fileno()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{file} is locked")
                time.sleep(_POLL_SECONDS)
        yield lock.fileno()


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
