"""Pods of the Helm chart may do nothing that modelswap does not need, end in time, and start in the right order."""

from __future__ import annotations

import re

import pytest
import yaml
from starlette.routing import Route

from services.receiver.app import WebhookEndpoint, create_app
from services.state.migrate import MIGRATIONS
from shared.contract.topology import EXTRACTOR_QUEUE, STATE_QUEUE, topology
from shared.runtime import lifecycle, telemetry
from shared.runtime.health import health_routes, reporter
from shared.runtime.settings import PROCESSES
from tests import chart
from tests.chart import ROOT, SETS, by_component, component, container, is_found, of_kind, pods

#: A Replicate that isn't is never in production.
NAMES = PROCESSES.keys() - {"simulator"}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
#: Clients outside of modelswap: Replicate, and the product's services.
ASKED_FROM_OUTSIDE = {"receiver", "state", "notifier"}

each_set = pytest.mark.parametrize("name", SETS)


@each_set
def test_each_process_is_a_deployment_of_its_own(name) -> None:
    assert by_component(name, "Deployment").keys() == NAMES
    assert {part: container(pod)["args"] for part, pod in pods(name).items() if part in NAMES} == {
        process: ["serve", process] for process in NAMES
    }


def test_arguments_are_those_of_the_images_command() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    commands = {" ".join(container(pod)["args"]) for pod in pods("default").values()}

    assert 'ENTRYPOINT ["modelswap"]' in dockerfile
    assert commands == {" ".join(COMPOSE[part]["command"]) for part in pods("default")}


@each_set
def test_every_pod_is_restricted(name) -> None:
    for pod in pods(name).values():
        spec, only = pod["spec"], container(pod)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers", "shareProcessNamespace"}
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
            "emptyDir",
            "projected",
            "secret",
        }


@each_set
def test_pods_run_as_the_user_of_the_image(name) -> None:
    (user,) = re.findall(r"(?m)^USER (\d+):", (ROOT / "deploy/Dockerfile").read_text())

    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods(name).values()} == {int(user)}


@each_set
def test_only_tmp_can_be_written_and_not_without_a_limit(name) -> None:
    for pod in pods(name).values():
        empty = {each["name"]: each["emptyDir"] for each in pod["spec"]["volumes"] if "emptyDir" in each}
        mounts = container(pod)["volumeMounts"]
        assert [each["mountPath"] for each in mounts if not each.get("readOnly")] == ["/tmp"]
        assert all("sizeLimit" in volume for volume in empty.values())


@each_set
def test_no_pod_has_a_token_of_kubernetes(name) -> None:
    accounts = {each["metadata"]["name"]: each for each in of_kind(name, "ServiceAccount")}

    assert {each["automountServiceAccountToken"] for each in accounts.values()} == {False}
    for part, pod in pods(name).items():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert component(accounts[pod["spec"]["serviceAccountName"]]) == part


@each_set
def test_kubernetes_sets_none_of_our_settings(name) -> None:
    """For the Service modelswap-state it would set MODELSWAP_STATE_PORT, and not to a port."""
    assert {pod["spec"]["enableServiceLinks"] for pod in pods(name).values()} == {False}


@each_set
def test_a_pod_is_killed_only_after_its_drain(name) -> None:
    for process in NAMES:
        pod = pods(name)[process]
        wait = container(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = float(by_component(name, "ConfigMap")[process]["data"]["MODELSWAP_DRAIN_SECONDS"])
        longest = wait + drain + 1.5 * lifecycle._CLOSING_SECONDS
        assert pod["spec"]["terminationGracePeriodSeconds"] >= longest + 5


@each_set
def test_a_pod_that_ends_still_listens_to_clients_from_outside(name) -> None:
    waiting = {process for process in NAMES if "lifecycle" in container(pods(name)[process])}

    assert waiting == ASKED_FROM_OUTSIDE


@each_set
def test_probes_ask_what_every_process_answers(name) -> None:
    answered = {route.path for route in health_routes(reporter({}))}

    for process in NAMES:
        only = container(pods(name)[process])
        probes = {kind: only[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
        (port,) = only["ports"]
        assert {probe["httpGet"]["port"] for probe in probes.values()} == {port["name"]}
        assert {probe["httpGet"]["path"] for probe in probes.values()} <= answered
        assert probes["liveness"]["httpGet"]["path"] == "/livez"
        assert probes["startup"]["httpGet"]["path"] == "/readyz"


@each_set
def test_an_outage_takes_no_model_from_the_products_reach(name) -> None:
    """/readyz of state is 503 while RabbitMQ is away, but users' models can be read."""
    asked = {process: container(pods(name)[process])["readinessProbe"]["httpGet"]["path"] for process in NAMES}

    assert asked == dict.fromkeys(NAMES, "/livez") | {"receiver": "/readyz"}


@each_set
def test_an_outage_of_a_day_restarts_nothing(name) -> None:
    """A restart would bring nothing back, and each one counts against the messages that are not acked yet."""
    for process in NAMES:
        probe = container(pods(name)[process])["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 86_400


@each_set
def test_memory_is_limited_as_in_compose(name) -> None:
    limits = {part: container(pod)["resources"]["limits"]["memory"] for part, pod in pods(name).items()}

    assert limits == {part: COMPOSE[part]["mem_limit"].replace("m", "Mi") for part in limits}
    for pod in pods(name).values():
        assert container(pod)["resources"]["requests"].keys() == {"cpu", "memory"}


@each_set
def test_replicas_are_spread_over_nodes_and_zones(name) -> None:
    for process in NAMES:
        pod = pods(name)[process]
        spread = pod["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        for each in spread:
            assert each["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["default", "production"])
def test_a_drained_node_takes_one_pod_of_a_process_at_a_time(name) -> None:
    budgets = by_component(name, "PodDisruptionBudget")

    assert budgets.keys() == NAMES
    for process, budget in budgets.items():
        labels = pods(name)[process]["metadata"]["labels"]
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


@each_set
def test_a_rollout_takes_no_pod_before_its_successor_is_ready(name) -> None:
    for deployment in of_kind(name, "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@each_set
def test_a_selector_finds_the_pods_of_one_process(name) -> None:
    for deployment in of_kind(name, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"].items()
        assert [part for part, pod in pods(name).items() if selector <= pod["metadata"]["labels"].items()] == [
            component(deployment)
        ]


# What reaches them


@each_set
def test_each_service_leads_to_the_port_of_its_process(name) -> None:
    services = by_component(name, "Service")

    assert services.keys() == NAMES
    for process, service in services.items():
        listens = PROCESSES[process].model_fields[f"{process}_port"].default
        pod = pods(name)[process]
        assert service["spec"]["type"] == "ClusterIP"
        assert service["spec"]["ports"] == [{"name": "http", "port": listens, "targetPort": "http"}]
        assert container(pod)["ports"] == [{"name": "http", "containerPort": listens}]
        assert [part for part, each in pods(name).items() if is_found(service["spec"]["selector"], each)] == [process]


@pytest.mark.parametrize("name", ["default", "production"])
def test_only_the_webhooks_route_is_public(name) -> None:
    endpoint = WebhookEndpoint.__new__(WebhookEndpoint)
    (webhooks,) = [route.path for route in create_app(endpoint).routes if isinstance(route, Route)]

    (ingress,) = of_kind(name, "Ingress")

    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == (webhooks, "Exact")
    assert path["backend"]["service"] == {"name": "modelswap-receiver", "port": {"name": "http"}}
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]


# Jobs


@each_set
def test_jobs_run_before_the_processes_and_in_their_order(name) -> None:
    jobs = by_component(name, "Job")

    weights = {part: int(job["metadata"]["annotations"]["helm.sh/hook-weight"]) for part, job in jobs.items()}

    assert {job["metadata"]["annotations"]["helm.sh/hook"] for job in jobs.values()} == {"pre-install,pre-upgrade"}
    assert sorted(weights, key=weights.__getitem__) == [each for each in ("migrate", "topology") if each in jobs]
    assert len(set(weights.values())) == len(weights)
    assert container(jobs["migrate"]["spec"]["template"])["args"] == ["db", "migrate"]
    assert MIGRATIONS.latest


def test_the_database_has_its_roles_before_its_tables() -> None:
    rendered = chart.render({"roles": {"roles": {"enabled": True}}})["roles"]

    jobs = {component(each): each for each in chart.parse(rendered) if each["kind"] == "Job"}

    weights = {part: int(job["metadata"]["annotations"]["helm.sh/hook-weight"]) for part, job in jobs.items()}
    assert sorted(weights, key=weights.__getitem__) == ["roles", "migrate", "topology"]
    assert container(jobs["roles"]["spec"]["template"])["args"] == ["db", "roles"]


@each_set
def test_what_a_job_needs_is_there_before_it(name) -> None:
    hooks = [each for each in chart.manifests(name) if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    weights = {
        (each["kind"], each["metadata"]["name"]): int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in hooks
    }

    for job in of_kind(name, "Job"):
        pod = job["spec"]["template"]
        needed = [("ServiceAccount", pod["spec"]["serviceAccountName"])]
        if of_kind(name, "NetworkPolicy"):
            needed.append(("NetworkPolicy", job["metadata"]["name"]))
        if of_kind(name, "ExternalSecret"):
            needed += [("ExternalSecret", secret) for secret, _ in chart.secret_keys(pod).values()]
        mine = weights["Job", job["metadata"]["name"]]
        assert "envFrom" not in container(pod)
        assert [each for each in needed if weights.get(each, mine) >= mine] == []


def test_a_replaced_external_secret_leaves_its_secret() -> None:
    for each in of_kind("production", "ExternalSecret"):
        assert each["spec"]["target"]["creationPolicy"] == "Orphan"
        assert each["spec"]["target"]["deletionPolicy"] == "Retain"
        assert "hook-succeeded" not in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


# Scaling


def test_what_scales_has_no_fixed_number_of_replicas() -> None:
    scaled = {"receiver", "extractor", "state"}

    fixed = {part for part, each in by_component("production", "Deployment").items() if "replicas" in each["spec"]}

    assert fixed == NAMES - scaled
    targets = of_kind("production", "ScaledObject", "HorizontalPodAutoscaler")
    assert {each["spec"]["scaleTargetRef"]["name"] for each in targets} == {f"modelswap-{part}" for part in scaled}
    assert of_kind("default", "ScaledObject", "HorizontalPodAutoscaler") == []


def test_the_receiver_scales_by_the_cpu_that_it_asks_for() -> None:
    (scaler,) = of_kind("production", "HorizontalPodAutoscaler")

    (metric,) = scaler["spec"]["metrics"]

    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    assert metric["resource"]["name"] == "cpu"
    # Of the request: without one, Kubernetes scales nothing.
    assert 0 < metric["resource"]["target"]["averageUtilization"] < 100
    assert container(pods("production")["receiver"])["resources"]["requests"]["cpu"]


@pytest.mark.parametrize(("process", "queue"), [("extractor", EXTRACTOR_QUEUE), ("state", STATE_QUEUE)])
def test_consumers_scale_by_length_and_age_of_their_queue(process, queue) -> None:
    spec = by_component("production", "ScaledObject")[process]["spec"]

    length, age = spec["triggers"]

    assert queue in {each.name for each in topology().queues}
    assert length["metadata"]["queueName"] == queue
    # Only the management API counts what is unacked.
    assert (length["metadata"]["protocol"], length["metadata"]["excludeUnacknowledged"]) == ("http", "false")
    watched = dict(re.findall(r"(modelswap_\w+)\{.*?queue=\"([\w.]+)\"", age["metadata"]["query"]))
    (paused,) = (family.name for family in telemetry.paused.describe())
    assert watched == dict.fromkeys((telemetry.OLDEST_DELIVERY, paused), queue)
    assert re.fullmatch(r"min_over_time\(\(.+\)\[2m:15s\]\)", age["metadata"]["query"])


@pytest.mark.parametrize("process", ["extractor", "state"])
def test_scaling_falls_back_and_never_reaches_zero(process) -> None:
    spec = by_component("production", "ScaledObject")[process]["spec"]

    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    # KEDA has a fallback for no other type.
    assert {trigger["metricType"] for trigger in spec["triggers"]} == {"AverageValue"}


def test_an_extractor_that_waits_for_a_boot_is_not_late() -> None:
    *_, age = by_component("production", "ScaledObject")["extractor"]["spec"]["triggers"]

    patience = PROCESSES["extractor"].model_fields["verify_patience_seconds"].default

    assert float(age["metadata"]["threshold"]) > patience
