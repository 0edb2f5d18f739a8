"""The examples of RabbitMQ and Postgres beside the Helm chart are what the chart and the code expect."""

from __future__ import annotations

import re

import pytest
import yaml

from deploy.local.rabbitmq import AMONG_NODES
from services.cli.local import roles
from tests.chart import CHART, EXAMPLES, ROOT

RABBITMQ = yaml.safe_load((EXAMPLES / "rabbitmq.yaml").read_text())
POSTGRES = yaml.safe_load((EXAMPLES / "postgres.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SECRETS = (EXAMPLES / "secrets.sh").read_text()


def lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def test_rabbitmq_is_configured_as_in_compose() -> None:
    usual, cluster = (
        lines((ROOT / "deploy/rabbitmq" / name).read_text()) for name in ("rabbitmq.conf", "cluster.conf")
    )
    # The operator has the nodes find each other.
    among_nodes = {line for line in cluster if not line.startswith("cluster_formation.")}

    configured = lines(RABBITMQ["spec"]["rabbitmq"]["additionalConfig"])

    assert configured == usual | among_nodes | {"default_vhost = modelswap"}
    assert lines(AMONG_NODES) <= configured


def test_a_quorum_outlives_a_node() -> None:
    assert RABBITMQ["spec"]["replicas"] == POSTGRES["spec"]["instances"] == 3
    assert "requiredDuringSchedulingIgnoredDuringExecution" in RABBITMQ["spec"]["affinity"]["podAntiAffinity"]


def test_rabbitmq_may_run_in_a_restricted_namespace() -> None:
    pod = RABBITMQ["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in (*pod["initContainers"], *pod["containers"]):
        assert each["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_postgres_has_the_roles_that_the_command_makes() -> None:
    made = roles._statements(dict.fromkeys(roles.LOGINS, "x"), roles.DATABASE, 1)

    without_passwords = [each for each in made if "PASSWORD" not in each]

    assert POSTGRES["spec"]["bootstrap"]["initdb"]["postInitApplicationSQL"] == without_passwords


def test_postgres_has_each_login_with_its_rights() -> None:
    initdb, managed = POSTGRES["spec"]["bootstrap"]["initdb"], POSTGRES["spec"]["managed"]["roles"]

    logins = {initdb["owner"]: None} | {each["name"]: each["inRoles"] for each in managed}

    assert initdb["database"] == roles.DATABASE
    assert set(logins) == set(roles.LOGINS.values())
    assert {roles.LOGINS[login]: [right] for login, right in roles._RIGHTS.items()}.items() <= logins.items()


@pytest.mark.parametrize("manifest", [RABBITMQ, POSTGRES], ids=["rabbitmq", "postgres"])
def test_the_servers_are_those_that_the_policies_let_through(manifest) -> None:
    policy = VALUES["networkPolicy"]
    (peer,) = policy["rabbitmq" if manifest is RABBITMQ else "postgres"]["peers"]

    assert list(peer["podSelector"]["matchLabels"].values()) == [manifest["metadata"]["name"]]


@pytest.mark.parametrize("manifest", [RABBITMQ, POSTGRES], ids=["rabbitmq", "postgres"])
def test_the_secrets_of_the_servers_are_written(manifest) -> None:
    named = set(re.findall(r"modelswap-(?:rabbitmq|postgres)-(\w+)", str(manifest["spec"])))

    assert named
    for each in named:
        assert re.search(rf"(?m)^(begin modelswap-\w+-{each}|login {each} )", SECRETS)
