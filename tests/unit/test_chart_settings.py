"""Each process of the Helm chart is given the settings that it reads, the secrets that it needs, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import SecretStr

from services.cli.local import roles, users
from shared.contract.rights import USERS
from shared.runtime.settings import PROCESSES, BrokerSettings, DatabaseSettings, StateSettings, TopologySettings
from shared.runtime.settings_base import Settings, setting
from tests import chart
from tests.chart import CHART, EXAMPLES, SETS, Manifest, by_component, container, pods, secret_keys, variables

WHOLE_SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SCHEMA = WHOLE_SCHEMA["properties"]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
NAMES = sorted(PROCESSES.keys() - {"simulator"})
#: What queues are made of: the same for all processes.
OF_QUEUES = {"MODELSWAP_QUEUE_REPLICAS", "MODELSWAP_RETRY_DELAYS"}
#: Made by the chart, out of other values or of the image.
MADE = {"MODELSWAP_DRAIN_SECONDS", "MODELSWAP_DECLARE_TOPOLOGY", "MODELSWAP_REPLICATE_API_URL", "MODELSWAP_PUBLIC_URL"}


def is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(is_secret(part) for part in get_args(annotation))


def settings_of(kind: type[Settings], *, secret: bool) -> set[str]:
    return {setting(name) for name, field in kind.model_fields.items() if is_secret(field.annotation) is secret}


def addresses_of(kind: type[Settings]) -> set[str]:
    """The settings with the address of another process."""
    return {setting(name) for name in kind.model_fields if name.removesuffix("_url") in {"api", *NAMES}}


@cache
def secrets() -> dict[tuple[str, str], str]:
    """What secrets.sh writes, by Secret and key; and the Secret of the minimal values."""
    script = EXAMPLES / "secrets.sh"
    written = subprocess.run(
        ["sh", script, chart.NAMESPACE],
        env={"PATH": os.environ["PATH"], "REPLICATE_API_TOKEN": "r8_of-the-account"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    found = {
        (each["metadata"]["name"], key): text
        for each in yaml.safe_load_all(written)
        for key, text in each["stringData"].items()
    }
    return found | {("modelswap", "amqp-url"): found["modelswap-rabbitmq", "admin-url"]}


def environment(name: str, part: str, files: Path) -> dict[str, str]:
    """What a process or job finds when it starts: variables, and mounted *files*."""
    pod = pods(name)[part]
    given = {each["name"]: each["value"] for each in variables(pod)}
    if "envFrom" in container(pod):
        (source,) = container(pod)["envFrom"]
        (settings,) = [
            each["data"]
            for each in chart.of_kind(name, "ConfigMap")
            if each["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        given |= settings
    (mounted,) = [each["mountPath"] for each in container(pod)["volumeMounts"] if each["name"] == "secrets"]
    for setting_, place in secret_keys(pod).items():
        (files / setting_).write_text(secrets()[place])
    return {key: text.replace(mounted, str(files)) for key, text in given.items()}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("process", NAMES)
def test_a_process_starts_with_what_it_is_given(name, process, tmp_path) -> None:
    settings = PROCESSES[process].load(environment(name, process, tmp_path))

    assert settings.drain_seconds == VALUES["drainSeconds"]


@pytest.mark.parametrize("name", SETS)
def test_the_jobs_start_with_what_they_are_given(name, tmp_path) -> None:
    migrate = environment(name, "migrate", tmp_path)

    assert "modelswap_owner:" in DatabaseSettings.load(migrate).database_url.get_secret_value()
    if "topology" in pods(name):
        topology = environment(name, "topology", tmp_path)
        assert "//modelswap:" in TopologySettings.load(topology).amqp_url.get_secret_value()
        assert users.find_passwords(topology).keys() == USERS.keys()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("process", NAMES)
def test_a_process_is_given_only_settings_that_it_reads(name, process) -> None:
    given = by_component(name, "ConfigMap")[process]["data"].keys()

    assert given <= settings_of(PROCESSES[process], secret=False)


@pytest.mark.parametrize("process", NAMES)
def test_a_process_is_given_only_secrets_that_it_needs(process) -> None:
    optional = {"MODELSWAP_WEBHOOK_SECRETS"}

    given = secret_keys(pods("default")[process])

    assert given.keys() == settings_of(PROCESSES[process], secret=True) - optional


@pytest.mark.parametrize("name", SETS)
def test_no_secret_is_in_an_environment(name) -> None:
    known = set().union(*(settings_of(kind, secret=True) for kind in PROCESSES.values()))
    plain = [each["name"] for pod in pods(name).values() for each in variables(pod)]
    plain += [key for each in chart.of_kind(name, "ConfigMap") for key in each.get("data", {})]

    assert set(plain) & known == set()
    assert [key for key in plain if re.search("PASSWORD|TOKEN|SECRET", key) and not key.endswith("_FILE")] == []
    assert chart.of_kind(name, "Secret") == []


@pytest.mark.parametrize("name", ["default", "production"])
def test_each_login_reaches_its_own_process_alone(name) -> None:
    """A user of RabbitMQ, or a role of Postgres, that two processes had would have the rights of both."""
    urls = ("MODELSWAP_AMQP_URL", "MODELSWAP_DATABASE_URL")

    places = [place for pod in pods(name).values() for key, place in secret_keys(pod).items() if key in urls]

    assert len(set(places)) == len(places)


def test_the_logins_of_the_example_are_those_of_the_rights() -> None:
    rabbitmq = {process: secrets()["modelswap-rabbitmq", f"{process}-url"] for process in USERS}
    postgres = {login: secrets()["modelswap-postgres", f"{login}-url"] for login in roles.LOGINS}

    for process, user in USERS.items():
        assert f"//{user}:{secrets()['modelswap-rabbitmq', f'{process}-password']}@" in rabbitmq[process]
    for login, role in roles.LOGINS.items():
        assert secrets()[f"modelswap-postgres-{login}", "username"] == role
        assert f"//{role}:{secrets()[f'modelswap-postgres-{login}', 'password']}@" in postgres[login]


def test_the_examples_secrets_are_all_different() -> None:
    made = re.findall(r"\b[0-9a-f]{48}\b", "\n".join(secrets().values()))
    again = {place: text for place, text in secrets().items() if place[1].endswith("-tokens")}

    assert len(again) == 2
    # administrator, five processes and KEDA; four roles; three tokens; two that sign.
    assert len(set(made)) == 16


def names_in(part: dict[str, Any]) -> list[str]:
    """The names that a part of the schema lists: its own, and those of the definition that it refers to."""
    of_each, own = part["propertyNames"]["anyOf"]
    return [*WHOLE_SCHEMA["$defs"][of_each["$ref"].removeprefix("#/$defs/")]["enum"], *own["enum"]]


@pytest.mark.parametrize("process", NAMES)
def test_the_schema_knows_each_setting_and_secret_of_a_process(process) -> None:
    kind = PROCESSES[process]
    by_the_chart = MADE | addresses_of(kind) | {f"MODELSWAP_{process.upper()}_PORT"}

    own = SCHEMA[process]["properties"]

    place = f"{process} in values.schema.json of the chart"
    settings = names_in(own["settings"])
    assert set(settings) == settings_of(kind, secret=False) - by_the_chart - OF_QUEUES, place
    assert len(set(settings)) == len(settings)
    assert set(own["secrets"]["propertyNames"]["enum"]) == settings_of(kind, secret=True), place
    needed = {setting(name) for name, field in kind.model_fields.items() if field.is_required()}
    # The extractor has no tokens configured here; ops asks it all the same.
    assert set(own["secrets"]["required"]) == needed & settings_of(kind, secret=True)


def test_the_schema_knows_the_settings_of_all_processes() -> None:
    common = set.intersection(*(settings_of(PROCESSES[process], secret=False) for process in NAMES))

    assert set(names_in(SCHEMA["settings"])) == common - MADE
    assert common <= settings_of(BrokerSettings, secret=False)


def test_the_job_makes_the_queues_that_the_processes_expect(tmp_path) -> None:
    rendered = chart.render(
        {
            "retries": {
                "settings": {"MODELSWAP_RETRY_DELAYS": "1s,2s"},
                "state": {"settings": {"MODELSWAP_EVENTS_LOG_MAX_BYTES": 10_000_000_000}},
            }
        }
    )["retries"]
    found = list(chart.parse(rendered))

    job = next(each for each in found if each["kind"] == "Job" and chart.component(each) == "topology")
    state = next(each for each in found if each["kind"] == "ConfigMap" and chart.component(each) == "state")
    made = {each["name"]: each["value"] for each in variables(job["spec"]["template"])}

    expected = {key: state["data"][key] for key in ("MODELSWAP_RETRY_DELAYS", "MODELSWAP_EVENTS_LOG_MAX_BYTES")}
    assert expected.items() <= made.items()
    assert expected["MODELSWAP_EVENTS_LOG_MAX_BYTES"] == "10000000000"


@pytest.mark.parametrize(("name", "declares"), [("default", False), ("production", False), ("minimal", True)])
def test_processes_declare_the_topology_where_no_job_does(name, declares, tmp_path) -> None:
    state = StateSettings.load(environment(name, "state", tmp_path))

    assert state.declare_topology is declares
    assert ("topology" in pods(name)) is not declares


def test_other_tools_get_their_variables_too() -> None:
    """Such as the exporter of traces, which reads the environment itself."""
    values = {"env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}}
    found = chart.parse(chart.render({"traced": values})["traced"])

    given = [each["data"].items() for each in found if each["kind"] == "ConfigMap"]

    assert len(given) == len(NAMES)
    assert all(values["env"].items() <= each for each in given)


@pytest.mark.parametrize("name", SETS)
def test_changed_settings_restart_the_process(name) -> None:
    changed = {"settings": {"MODELSWAP_LOG_LEVEL": "debug"}}
    before = checksums(chart.manifests(name))

    after = checksums(chart.parse(chart.render({"changed": {**SETS[name], **changed}})["changed"]))

    assert before.keys() == after.keys()
    assert before.items() & after.items() == set()


def checksums(found: Any) -> dict[str, str]:
    deployments: list[Manifest] = [each for each in found if each["kind"] == "Deployment"]
    return {
        chart.component(each): each["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        for each in deployments
    }


def test_external_secrets_make_all_that_is_asked_for() -> None:
    asked = {place for pod in pods("production").values() for place in secret_keys(pod).values()}
    (keda,) = chart.of_kind("production", "TriggerAuthentication")
    asked |= {(each["name"], each["key"]) for each in keda["spec"]["secretTargetRef"]}

    made = {
        (each["spec"]["target"]["name"], entry["secretKey"])
        for each in chart.of_kind("production", "ExternalSecret")
        for entry in each["spec"]["data"]
    }

    assert made == asked
