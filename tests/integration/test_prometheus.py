"""Prometheus itself accepts what is shipped for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.prometheus import program

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "config", "--lint-fatal", MONITORING / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
