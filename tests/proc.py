"""What the kernel says of a process, which may end between two looks. Linux only."""

from __future__ import annotations

import contextlib
from pathlib import Path


def look_into(file: str | Path) -> str:
    """What a *file* of a process in /proc says; nothing, if that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(file).read_text()
    return ""


def is_alive(pid: int) -> bool:
    """Has it not ended yet, whether or not anybody took notice?"""
    status = look_into(f"/proc/{pid}/status")
    return status != "" and "State:\tZ" not in status


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """The memory of a running process: now (``VmRSS``), or at its peak since `forget_peak` (``VmHWM``)."""
    lines = look_into(f"/proc/{pid}/status").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def forget_peak(pid: int) -> None:
    """Count a process's peak of memory from here on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
