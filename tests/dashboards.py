"""The dashboards of deploy/monitoring, and what they ask of Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, TypeAlias

MONITORING: Final = Path(__file__).parents[1] / "deploy/monitoring"

Board: TypeAlias = dict[str, Any]
Panel: TypeAlias = dict[str, Any]


def boards() -> dict[str, Board]:
    """Return each dashboard by the name of its file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(MONITORING.glob("dashboards/*.json"))}


def expressions(board: Board) -> list[str]:
    """Return what the panels ask of Prometheus, with a time for Grafana's variables."""
    return [
        re.sub(r"\$__(rate_interval|range)\b", "5m", target["expr"])
        for panel in board["panels"]
        for target in panel["targets"]
        if "expr" in target
    ]
