"""deploy/compose.cluster.yml adds nodes of RabbitMQ and second processes to docker-compose.yml, and forgets none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import yaml

from deploy.local.rabbitmq import AMONG_NODES
from shared.contract.brokers import split_addresses
from shared.runtime.settings import PROCESSES

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "deploy/compose.cluster.yml").read_text()
NODES: Final = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
#: The simulator keeps its trainings in memory, so there is one.
TWICE: Final = sorted(PROCESSES.keys() - {"simulator"})
#: Made for each node, out of that of one.
ADDRESSES: Final = ("MODELSWAP_AMQP_URL", "MODELSWAP_MANAGEMENT_URL")
Service: TypeAlias = dict[str, Any]

BASE: Final[dict[str, Service]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# `!reset` is Compose's own: it removes what the first file says.
CLUSTER: Final[dict[str, Any]] = yaml.safe_load(TEXT.replace("!reset ", ""))
ADDED: Final[dict[str, Service]] = CLUSTER["services"]
MONITORING: Final = ROOT / "deploy/monitoring"
SCRAPED: Final[list[Any]] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
SPEAKS_AMQP: Final = sorted(name for name, service in BASE.items() if ADDRESSES[0] in service.get("environment", {}))


def formatted(setting: str) -> str:
    """As the second file writes what the first one does."""
    return re.sub(r":\?[^}]*\}", "}", setting)


@pytest.mark.parametrize("name", SPEAKS_AMQP)
def test_each_has_the_addresses_of_all_nodes(name: str) -> None:
    wanted = {
        setting: [formatted(BASE[name]["environment"][setting]).replace("@rabbitmq:", f"@{node}:") for node in NODES]
        for setting in ADDRESSES
        if setting in BASE[name]["environment"]
    }

    assert {setting: split_addresses(ADDED[name]["environment"][setting]) for setting in wanted} == wanted


@pytest.mark.parametrize("name", SPEAKS_AMQP)
def test_queues_are_on_every_node(name: str) -> None:
    assert "MODELSWAP_QUEUE_REPLICAS" in BASE[name]["environment"]
    assert ADDED[name]["environment"]["MODELSWAP_QUEUE_REPLICAS"] == len(NODES)


def test_queues_are_declared_when_all_nodes_are_there() -> None:
    waits_for = BASE["topology"]["depends_on"] | ADDED["topology"]["depends_on"]

    assert {node: waits_for[node]["condition"] for node in NODES} == dict.fromkeys(NODES, "service_healthy")


@pytest.mark.parametrize("name", TWICE)
def test_a_second_process_is_as_the_first_and_shares_its_name(name: str) -> None:
    second = ADDED[f"{name}-2"]

    assert second == {
        "extends": {"file": "docker-compose.yml", "service": name},
        "environment": ADDED[name]["environment"],
        "ports": [],
        "networks": {"default": {"aliases": [name]}},
    }


@pytest.mark.parametrize("node", NODES[1:])
def test_another_node_has_its_own_name_and_data(node: str) -> None:
    added = ADDED[node]

    # All else, such as its hardening, is that of the first.
    assert added.keys() == {"extends", "environment", "command", "healthcheck", "hostname", "volumes", "ports"}
    assert added["extends"] == {"file": "docker-compose.yml", "service": "rabbitmq"}
    assert added["hostname"] == node
    assert added["ports"] == []
    assert f"{node}:/var/lib/rabbitmq" in added["volumes"]
    assert node in CLUSTER["volumes"]


def test_nodes_know_each_other_by_name_and_cookie() -> None:
    configuration = (ROOT / "deploy/rabbitmq/cluster.conf").read_text()
    mount = "./deploy/rabbitmq/cluster.conf:/etc/rabbitmq/conf.d/cluster.conf:ro"

    listed = re.findall(r"(?m)^cluster_formation\.classic_config\.nodes\.\d = rabbit@(.+)$", configuration)

    assert listed == list(NODES)
    assert all(mount in ADDED[node]["volumes"] for node in NODES)
    assert all("command" in ADDED[node] for node in NODES)
    assert all(ADDED[node]["environment"]["ERLANG_COOKIE"].startswith("${RABBITMQ_ERLANG_COOKIE:?") for node in NODES)


def test_nodes_have_the_settings_that_tests_try_with_private_ones() -> None:
    files = [(ROOT / "deploy/rabbitmq" / name).read_text().splitlines() for name in ("rabbitmq.conf", "cluster.conf")]

    assert set(AMONG_NODES.splitlines()) <= {line for file in files for line in file}


def targets(folder: str, job: str) -> list[str]:
    groups = yaml.safe_load((MONITORING / folder / f"{job}.yml").read_text())
    return [target for group in groups for target in group["targets"]]


def test_prometheus_asks_each_process_by_a_name_of_its_own() -> None:
    wanted = [
        f"{name}-{number}:{port}"
        for number in (1, 2)
        for name, port in (target.split(":") for target in targets("targets", "modelswap"))
    ]

    assert targets("cluster", "modelswap") == wanted
    assert [ADDED[name]["networks"]["default"]["aliases"] for name in TWICE] == [[f"{name}-1"] for name in TWICE]


def test_prometheus_asks_every_node() -> None:
    (first,) = targets("targets", "rabbitmq")

    assert targets("cluster", "rabbitmq") == [first.replace("rabbitmq", node) for node in NODES]


def test_prometheus_finds_the_targets_of_the_cluster() -> None:
    files = [file for job in SCRAPED for group in job["file_sd_configs"] for file in group["files"]]

    assert set(files) == {f"targets/{file.name}" for file in (MONITORING / "cluster").iterdir()}
    assert ADDED["prometheus"]["volumes"] == ["./deploy/monitoring/cluster:/etc/prometheus/targets:ro"]


def test_it_holds_no_secret() -> None:
    assert re.findall(r"//\w[\w-]*:(?!\$\{\w+\}@)", TEXT) == []
