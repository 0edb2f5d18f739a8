"""What processes use: CPU and memory, their children's included. Linux only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from tests.proc import look_into

_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: The processes of a pipeline and its servers, by what they are called in the table.
Processes = Mapping[str, Sequence[int]]


def family(pid: int) -> list[int]:
    """Return *pid* and all its descendants."""
    children = look_into(f"/proc/{pid}/task/{pid}/children").split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_seconds(processes: Processes) -> dict[str, float]:
    """CPU used so far; that of children which have ended is counted at their parent."""
    return {name: sum(map(_ticks, pids)) / _TICKS for name, pids in processes.items()}


def memory_mb(processes: Processes) -> dict[str, float]:
    """Memory in use now; a page that several processes share is counted once."""
    return {name: sum(map(_proportional_kb, pids)) / 1024 for name, pids in processes.items()}


def _ticks(pid: int) -> int:
    fields = look_into(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return sum(map(int, fields[11:15]))


def _proportional_kb(pid: int) -> int:
    lines = look_into(f"/proc/{pid}/smaps_rollup").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
