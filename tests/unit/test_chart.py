"""The Helm chart makes valid manifests of every set of values that is shipped, and refuses values that cannot work."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests import chart
from tests.chart import CHART, DIGEST, EXAMPLES, ROOT, SETS, Manifest

#: The oldest that the chart allows, and the newest that is known here.
VERSIONS = ("1.30.0", "1.37.0")
CRDS = ROOT / "tests/fixtures/crds"
#: Values that are refused, and a part of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is no value": ({"recevier": {}}, "recevier"),
    "a name that is no setting": ({"settings": {"MODELSWAP_LOGLEVEL": "debug"}}, "MODELSWAP_LOGLEVEL"),
    "retries of one process, whose delays nothing declares": (
        {"extractor": {"settings": {"MODELSWAP_RETRY_DELAYS": "1s"}}},
        "invalid propertyName 'MODELSWAP_RETRY_DELAYS'",
    ),
    "a queue that two processes would make differently": (
        {"ops": {"settings": {"MODELSWAP_QUEUE_REPLICAS": 3}}},
        "invalid propertyName 'MODELSWAP_QUEUE_REPLICAS'",
    ),
    "a name that is no value of a process": ({"ops": {"replica": 3}}, "invalid propertyName 'replica'"),
    "a name that is no value of every process": ({"defaults": {"replica": 3}}, "invalid propertyName 'replica'"),
    "a secret that names no key": (
        {"ops": {"secrets": {"MODELSWAP_AMQP_URL": {"key": None}}}},
        "missing property 'key'",
    ),
    "a setting among what is none": ({"env": {"MODELSWAP_LOG_LEVEL": "debug"}}, "MODELSWAP_LOG_LEVEL"),
    "a setting of another process": (
        {"receiver": {"settings": {"MODELSWAP_VERIFY_LEVEL": "schema"}}},
        "invalid propertyName 'MODELSWAP_VERIFY_LEVEL'",
    ),
    "a secret among the settings": (
        {"state": {"settings": {"MODELSWAP_API_TOKENS": "x"}}},
        "invalid propertyName 'MODELSWAP_API_TOKENS'",
    ),
    "a process without its broker": (
        {"ops": {"secrets": {"MODELSWAP_AMQP_URL": None}}},
        "missing property 'MODELSWAP_AMQP_URL'",
    ),
    "a receiver that can verify no webhook": (
        {"receiver": {"secrets": {"MODELSWAP_REPLICATE_API_TOKEN": None}}},
        "missing property 'MODELSWAP_WEBHOOK_SECRETS'",
    ),
    "a digest that is none": ({"image": {"digest": "latest"}}, "/image/digest"),
    "a process that may be scaled to zero": (
        {"state": {"autoscaling": {"minReplicas": 0}}},
        "/state/autoscaling/minReplicas",
    ),
    "no public address": ({"ingress": {"enabled": False}}, "set publicUrl"),
    "a way to every broker": ({"networkPolicy": {"rabbitmq": {"peers": []}}}, "/networkPolicy/rabbitmq/peers"),
    "a rule for everyone": (
        {"networkPolicy": {"extraEgress": [{"ports": [{"port": 4317}]}]}},
        "/networkPolicy/extraEgress/0",
    ),
    "a drain without an end": ({"drainSeconds": 0}, "/drainSeconds"),
}
ALLOWED: dict[str, dict[str, Any]] = {
    "webhook secrets instead of a token": {
        "receiver": {
            "secrets": {
                "MODELSWAP_REPLICATE_API_TOKEN": None,
                "MODELSWAP_WEBHOOK_SECRETS": {"name": "modelswap-replicate", "key": "webhook-secrets"},
            }
        }
    },
    "roles": {"roles": {"enabled": True}},
    "everything in one": {
        "imagePullSecrets": [{"name": "registry"}],
        "runAsUser": None,
        "defaults": {
            "podLabels": {"team": "models"},
            "podAnnotations": {"reload": "yes"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "models", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
        },
        "networkPolicy": {
            "operators": [{"namespaceSelector": {"matchLabels": {"team": "models"}}}],
            "extraEgress": [
                {"to": [{"podSelector": {"matchLabels": {"app": "collector"}}}], "ports": [{"port": 4318}]}
            ],
        },
        "externalSecrets": {"enabled": True, "except": ["modelswap-postgres"]},
        "topology": {"by": "others"},
    },
}


@cache
def rendered() -> dict[str, dict[str, str]]:
    return chart.render({case: values for case, (values, _) in REFUSED.items()} | ALLOWED)


@cache
def definitions(version: str) -> Registry[Any]:
    """Read the types of one version of Kubernetes: once, and not for each manifest, as `kubernetes_validate` does."""
    return Resource.from_contents(_schema(version, "_definitions")) @ Registry()


def _schema(version: str, name: str) -> Any:
    return schema_contents(f"kubernetes-json-schema/v{version}-local-strict/{name}.json", version)


@cache
def validator(kind: str, api: str, version: str) -> Any:
    own = CRDS / f"{kind}.json"
    if own.exists():
        return jsonschema.Draft202012Validator(json.loads(own.read_text()))
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = _schema(version, f"{kind.lower()}-{group}")
    registry = Resource.from_contents(schema) @ definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def mistakes(manifest: Manifest, version: str) -> list[str]:
    found = validator(manifest["kind"], manifest["apiVersion"], version).iter_errors(manifest)
    return [f"{manifest['kind']} {manifest['metadata']['name']}: {error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_about(name) -> None:
    assert chart.findings(name) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_every_manifest_fits_its_schema(name, version) -> None:
    assert [line for each in chart.manifests(name) for line in mistakes(each, version)] == []


def test_a_manifest_that_does_not_fit_is_found() -> None:
    (ingress,) = chart.of_kind("default", "Ingress")
    (scaled, _) = chart.of_kind("production", "ScaledObject")

    for manifest in (ingress, scaled):
        assert mistakes({**manifest, "spec": {**manifest["spec"], "more": 1}}, VERSIONS[-1])


@pytest.mark.parametrize("file", ["rabbitmq", "postgres"])
def test_the_examples_fit_their_schemas(file) -> None:
    for manifest in yaml.safe_load_all((EXAMPLES / f"{file}.yaml").read_text()):
        assert mistakes(manifest, VERSIONS[-1]) == []


@pytest.mark.parametrize("name", SETS)
def test_no_two_manifests_have_one_name(name) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in chart.manifests(name)]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused(case) -> None:
    _, reason = REFUSED[case]

    assert list(rendered()[case]) == ["error"]
    assert reason in rendered()[case]["error"]


@pytest.mark.parametrize("case", ALLOWED)
def test_other_values_that_work_are_allowed(case) -> None:
    found = list(chart.parse(rendered()[case]))

    assert found
    assert [line for each in found for line in mistakes(each, VERSIONS[-1])] == []


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    described = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert described["appVersion"] == project


@pytest.mark.parametrize(
    ("name", "image"), [("default", None), ("minimal", None), ("production", f"modelswap@{DIGEST}")]
)
def test_every_image_is_that_of_the_values(name, image) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    used = {chart.container(pod)["image"] for pod in chart.pods(name).values()}

    assert used == {image or f"modelswap:{version}"}


@pytest.mark.parametrize("file", [CHART / "values.yaml", *EXAMPLES.glob("values-*.yaml")], ids=lambda file: file.name)
def test_no_registry_is_named(file) -> None:
    repository = yaml.safe_load(file.read_text()).get("image", {}).get("repository", "modelswap")

    assert repository == "modelswap"


def test_an_example_of_an_address_is_told_apart() -> None:
    assert "THAT ADDRESS IS AN EXAMPLE" in chart.notes("default")
    assert "https://webhooks.example.com/webhooks/replicate" in chart.notes("minimal")
    assert "port-forward service/modelswap-ops" in chart.notes("production")
