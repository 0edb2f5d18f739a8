"""The dashboards of deploy/monitoring, the rules, and which series they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import promql_parser
import yaml

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


def rules() -> list[dict[str, Any]]:
    """Return every alert and recording rule."""
    files = [yaml.safe_load(file.read_text()) for file in sorted(MONITORING.glob("*.yml"))]
    return [rule for file in files for group in file.get("groups", []) for rule in group["rules"]]


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Yield every selection of series in *expression*."""
    found: list[promql_parser.VectorSelector] = []

    def note(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), note)
    yield from found
