"""The Helm chart takes alerts and dashboards as they are in deploy/monitoring, and has every process watched."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from tests import chart
from tests.chart import CHART, ROOT, by_component, component, is_found, of_kind

MONITORING = ROOT / "deploy/monitoring"
#: What Kubernetes takes of a ConfigMap.
LARGEST_BYTES = 1024 * 1024


def test_the_alerts_are_those_of_deploy_monitoring() -> None:
    files = [yaml.safe_load(file.read_text()) for file in sorted(MONITORING.glob("*.yml"))]

    found = [each["spec"]["groups"] for each in of_kind("production", "PrometheusRule")]

    assert found == [each["groups"] for each in files if "groups" in each]


def test_every_process_is_watched_as_the_job_of_the_alerts() -> None:
    (monitor,) = of_kind("production", "ServiceMonitor")
    services = of_kind("production", "Service")
    (endpoint,) = monitor["spec"]["endpoints"]

    for service in services:
        assert is_found(monitor["spec"]["selector"]["matchLabels"], service)
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "modelswap"
    assert 'job="modelswap"' in (MONITORING / "alerts.yml").read_text()


@pytest.mark.parametrize("name", ["default", "minimal"])
def test_without_the_operators_nothing_is_made_for_them(name) -> None:
    native = {"v1", "apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1"}

    assert {each["apiVersion"] for each in chart.manifests(name)} <= native


def test_each_dashboard_becomes_a_config_map(tmp_path) -> None:
    copy = tmp_path / "modelswap"
    shutil.copytree(CHART, copy)
    (copy / "monitoring/dashboards").mkdir(exist_ok=True)
    text = json.dumps({"title": "Any", "panels": [{"expr": '{{ queue }} "x"'}]})
    (copy / "monitoring/dashboards/any_walk.json").write_text(text)

    values = {"monitoring": {"dashboards": {"enabled": True}}}
    found = list(chart.parse(chart.render({"with": values}, copy)["with"]))

    dashboards = {each["metadata"]["name"]: each for each in found if each["kind"] == "ConfigMap" and is_board(each)}
    shipped = sorted(MONITORING.glob("dashboards/*.json"))
    assert len(dashboards) == len(shipped) + 1
    assert dashboards["modelswap-dashboard-any-walk"]["data"] == {"any_walk.json": text}
    for each in dashboards.values():
        assert len(json.dumps(each["data"])) < LARGEST_BYTES


def is_board(config_map: chart.Manifest) -> bool:
    return "grafana_dashboard" in config_map["metadata"]["labels"]


def test_the_shipped_dashboards_are_as_they_are() -> None:
    shipped = {file.name: file.read_text() for file in MONITORING.glob("dashboards/*.json")}

    found = [each["data"] for each in of_kind("production", "ConfigMap") if is_board(each)]

    assert {key: text for data in found for key, text in data.items()} == shipped


def test_the_config_maps_of_the_processes_are_no_dashboards() -> None:
    assert {component(each) for each in of_kind("production", "ConfigMap") if not is_board(each)} == set(
        by_component("production", "Deployment")
    )
