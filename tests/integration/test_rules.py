"""Prometheus itself, in the form of promtool, says when each alert fires and when it does not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards import MONITORING
from tests.prometheus import program

TESTS = Path(__file__).parents[1] / "fixtures/alerts.test.yml"
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    done = subprocess.run([program("promtool"), "test", "rules", TESTS], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tested() -> Any:
    """Promtool's tests, read once: that takes a second."""
    return yaml.safe_load(TESTS.read_text())["tests"]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_firing_and_silent(alert: str, tested: Any) -> None:
    tests = [each for each in tested if each["name"] == alert]
    fires = [alert in firing(check) for each in tests for check in each["promql_expr_test"]]

    assert set(fires) == {True, False}


def firing(check: dict[str, Any]) -> set[str]:
    """Return the alerts that fire in a *check*."""
    return {
        name for sample in check.get("exp_samples", ()) for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
