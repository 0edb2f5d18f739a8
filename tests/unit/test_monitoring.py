"""Prometheus and Grafana of docker-compose.yml find what they show, and the runbook says which alerts fire when."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.runtime.settings import PROCESSES
from tests.alerts import CASES, runbook_table
from tests.dashboards import rules
from tests.prometheus import faster

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "deploy/runbook.md").read_text()
MONITORING = ROOT / "deploy/monitoring"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())


def targets_of(job: str) -> list[str]:
    (found,) = (each for each in PROMETHEUS["scrape_configs"] if each["job_name"] == job)
    files = [MONITORING / file for group in found["file_sd_configs"] for file in group["files"]]
    return [target for file in files for group in yaml.safe_load(file.read_text()) for target in group["targets"]]


def container_ports(service: str) -> list[str]:
    return [each.rpartition(":")[2] for each in COMPOSE["services"][service]["ports"]]


def mounts_of(service: str) -> dict[str, str]:
    """Where in the container each file or folder of the checkout is."""
    volumes = [each.split(":") for each in COMPOSE["services"][service]["volumes"]]
    return {source.removeprefix("./"): target for source, target, *_ in volumes if source.startswith("./")}


def provisioned(name: str) -> Any:
    return yaml.safe_load((MONITORING / "grafana" / name).read_text())


def test_prometheus_asks_every_process_at_its_port() -> None:
    processes = PROCESSES.keys() - {"simulator"}

    assert sorted(targets_of("modelswap")) == sorted(f"{name}:{container_ports(name)[0]}" for name in processes)


def test_prometheus_reads_every_file_of_rules() -> None:
    files = {file.name: yaml.safe_load(file.read_text()) for file in MONITORING.glob("*.yml")}

    assert sorted(PROMETHEUS["rule_files"]) == sorted(name for name, content in files.items() if "groups" in content)
    assert mounts_of("prometheus")["deploy/monitoring"] == "/etc/prometheus"


def test_grafana_reaches_its_data_sources() -> None:
    found = {each["uid"]: each["url"] for each in provisioned("datasources.yml")["datasources"]}

    assert found == {name: f"http://{name}:{container_ports(name)[0]}" for name in ("prometheus", "jaeger")}


def test_grafana_finds_its_files_where_they_are_mounted() -> None:
    mounts = mounts_of("grafana")
    (provider,) = provisioned("dashboards.yml")["providers"]
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert provider["options"]["path"] == mounts["deploy/monitoring/dashboards"]
    assert Path(home).parent == Path(mounts["deploy/monitoring/dashboards"])
    assert (MONITORING / "dashboards" / Path(home).name).exists()


def test_every_alert_was_seen_to_fire() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}

    assert {name for alerts in CASES.values() for name in alerts.must} == alerts


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: rule["alert"])
def test_the_runbook_says_when_an_alert_is_over(rule) -> None:
    place = rule["annotations"]["runbook"].removeprefix("deploy/runbook.md#")
    sections = {
        title.lower().replace(" ", "-"): text
        for title, text in re.findall(r"(?m)^## (.+)\n((?:(?!## ).*\n)+)", RUNBOOK)
    }

    assert "It is over" in sections[place]


def test_the_runbook_says_which_alerts_fire() -> None:
    assert runbook_table() in RUNBOOK


def test_faster_rules_have_every_time_divided() -> None:
    rule = {"alert": "A", "for": "20m", "expr": 'max(a_seconds{x!="y"}) > 120 and increase(b{le="60.0"}[1h]) > 3'}

    (group,) = faster({"groups": [{"name": "g", "rules": [rule]}]}, 60)["groups"]

    changed = {"for": "20000ms", "expr": 'max(a_seconds{x!="y"}) > 2.0 and increase(b{le="60.0"}[60000ms]) > 3'}
    assert group["rules"] == [rule | changed]
