"""The network policies of the Helm chart let exactly the walk of a training through, and what is asked about it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from services.notifier.addresses import is_public
from shared.runtime.settings import PROCESSES, BrokerSettings, DatabaseSettings, OpsSettings, ReplicateSettings
from shared.runtime.settings_base import Settings, setting
from tests import chart
from tests.chart import Manifest, by_component, is_found, of_kind, pods

NAMES = sorted(PROCESSES.keys() - {"simulator"})
PORTS = {process: PROCESSES[process].model_fields[f"{process}_port"].default for process in NAMES}
#: RabbitMQ's ports, without and with TLS; and Postgres's.
SERVERS = {"default": (5672, 15672, 5432), "production": (5671, 15671, 5432)}
#: Whom networkPolicy's values name, by a label of theirs.
OTHERS = {
    "kube-dns": "dns",
    "modelswap-rabbitmq": "rabbitmq",
    "modelswap-postgres": "postgres",
    "ingress-nginx": "ingress",
    "monitoring": "prometheus",
    "true": "clients",
}

each_set = pytest.mark.parametrize("name", SERVERS)


def who(name: str, peer: Manifest) -> str:
    """The name of a peer: a process of this release, a server, or the internet."""
    if "ipBlock" in peer:
        return "internet"
    selector = peer.get("podSelector", {}).get("matchLabels", {})
    found = [part for part, pod in pods(name).items() if selector and is_found(selector, pod)]
    if found:
        (part,) = found
        return part
    labels = [*selector.values(), *peer.get("namespaceSelector", {}).get("matchLabels", {}).values()]
    return next(OTHERS[label] for label in labels if label in OTHERS)


def ports(rule: Manifest) -> set[Any]:
    return {(each["port"], each["endPort"]) if "endPort" in each else each["port"] for each in rule["ports"]}


def allowed(name: str, policy: Manifest, direction: str) -> set[tuple[str, Any]]:
    """Who may be reached, or who may come, and at which port."""
    side = "to" if direction == "egress" else "from"
    rules = policy["spec"].get(direction, [])
    return {(who(name, peer), port) for rule in rules for peer in rule[side] for port in ports(rule)}


def asked_by(kind: type[Settings]) -> dict[str, str]:
    """The processes whose addresses are among the settings, by the setting."""
    named = {"api_url": "state", **{f"{process}_url": process for process in NAMES}}
    return {setting(name): named[name] for name in kind.model_fields if name in named}


def expected_egress(name: str, kind: type[Settings]) -> set[tuple[str, Any]]:
    amqp, management, postgres = SERVERS[name]
    reached: set[tuple[str, Any]] = {("dns", 53)}
    if issubclass(kind, BrokerSettings):
        reached.add(("rabbitmq", amqp))
    if issubclass(kind, DatabaseSettings):
        reached.add(("postgres", postgres))
    if issubclass(kind, ReplicateSettings):
        reached.add(("internet", 443))
    if "management_url" in kind.model_fields:
        reached.add(("rabbitmq", management))
    if "webhook_timeout_seconds" in kind.model_fields:
        reached |= {("internet", 443), ("internet", (1024, 65535))}
    return reached | {(asked, PORTS[asked]) for asked in asked_by(kind).values()}


def expected_ingress(name: str, process: str) -> set[tuple[str, int]]:
    come = {asker for asker in NAMES if process in asked_by(PROCESSES[asker]).values()}
    if process == "receiver":
        come.add("ingress")
    if process in ("state", "notifier"):
        come.add("clients")
    if name == "production":
        come.add("prometheus")
    return {(each, PORTS[process]) for each in come}


@each_set
@pytest.mark.parametrize("process", NAMES)
def test_a_process_reaches_what_its_settings_name_and_no_more(name, process) -> None:
    policy = by_component(name, "NetworkPolicy")[process]

    assert allowed(name, policy, "egress") == expected_egress(name, PROCESSES[process])


@each_set
@pytest.mark.parametrize("process", NAMES)
def test_a_process_is_reached_at_its_port_by_whom_it_serves(name, process) -> None:
    policy = by_component(name, "NetworkPolicy")[process]

    assert allowed(name, policy, "ingress") == expected_ingress(name, process)


def test_a_receiver_that_has_the_webhooks_secrets_reaches_no_internet() -> None:
    given = {
        "MODELSWAP_REPLICATE_API_TOKEN": None,
        "MODELSWAP_WEBHOOK_SECRETS": {"name": "modelswap-replicate", "key": "webhook-secrets"},
    }
    found = chart.parse(chart.render({"given": {"receiver": {"secrets": given}}})["given"])

    (policy,) = [each for each in found if each["kind"] == "NetworkPolicy" and chart.component(each) == "receiver"]

    assert {server for server, _ in allowed("default", policy, "egress")} == {"dns", "rabbitmq"}


def test_processes_reach_the_collector_that_they_send_traces_to() -> None:
    values = {"env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318"}}
    found = chart.parse(chart.render({"traced": values})["traced"])

    policies = {chart.component(each): each for each in found if each["kind"] == "NetworkPolicy"}
    reached = {process: allowed("default", policies[process], "egress") for process in NAMES}

    assert reached == {
        process: expected_egress("default", PROCESSES[process]) | {("prometheus", 4318)} for process in NAMES
    }


@each_set
def test_jobs_reach_their_server_and_are_reached_by_none(name) -> None:
    policies = by_component(name, "NetworkPolicy")
    amqp, management, postgres = SERVERS[name]

    assert allowed(name, policies["migrate"], "egress") == {("dns", 53), ("postgres", postgres)}
    assert allowed(name, policies["topology"], "egress") == {("dns", 53), ("rabbitmq", amqp), ("rabbitmq", management)}
    for job in ("migrate", "topology"):
        assert allowed(name, policies[job], "ingress") == set()


@each_set
def test_both_ends_of_a_way_between_processes_are_open(name) -> None:
    policies = by_component(name, "NetworkPolicy")

    for asker, policy in policies.items():
        for asked, port in allowed(name, policy, "egress"):
            if asked in NAMES:
                assert (asker, port) in allowed(name, policies[asked], "ingress")


@each_set
def test_every_pod_has_one_policy_for_both_directions(name) -> None:
    policies = of_kind(name, "NetworkPolicy")

    for part, pod in pods(name).items():
        mine = [each for each in policies if is_found(each["spec"]["podSelector"]["matchLabels"], pod)]
        assert [chart.component(each) for each in mine] == [part]
        assert mine[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]


@each_set
def test_no_rule_is_for_everyone(name) -> None:
    for policy in of_kind(name, "NetworkPolicy"):
        rules = [(rule, "from") for rule in policy["spec"].get("ingress", [])]
        rules += [(rule, "to") for rule in policy["spec"]["egress"]]
        for rule, side in rules:
            assert rule[side]
            assert rule["ports"]
            assert all(rule[side])


@each_set
def test_ops_is_told_where_the_others_are(name) -> None:
    """Its addresses lead to Services of this release, at the ports that the policies open."""
    data = by_component(name, "ConfigMap")["ops"]["data"]

    told = {key: data.get(key) for key in asked_by(OpsSettings)}

    assert told == {key: f"http://modelswap-{asked}:{PORTS[asked]}" for key, asked in asked_by(OpsSettings).items()}


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fd00::1",
        "fe80::1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ],
)
def test_the_internet_is_not_the_cluster(address) -> None:
    assert not is_public(ip_address(address))
    assert not is_in_the_internet(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111"])
def test_public_addresses_are_in_the_internet(address) -> None:
    assert is_public(ip_address(address))
    assert is_in_the_internet(address)


def is_in_the_internet(address: str) -> bool:
    policy = by_component("default", "NetworkPolicy")["notifier"]
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    return any(
        ip_address(address) in ip_network(block["cidr"])
        and not any(ip_address(address) in ip_network(network) for network in block["except"])
        for block in blocks
    )
