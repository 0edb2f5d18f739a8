"""What is shipped to run modelswap says the same as the code, and leaves no door open."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr

from services.extractor.picture import Flaw
from services.ops.reconcile.reconciler import Reconciler
from services.ops.replays.views import UNDERWAY
from services.receiver.app import _RESULTS
from services.simulator.faults import ApiFaultOrder, FaultOrder
from shared.contract.errors import UNEXPECTED
from shared.contract.retry import DELAYS
from shared.contract.topology import DEAD_QUEUE
from shared.runtime import lifecycle, telemetry
from shared.runtime.broker import Consumer, RawConsumer
from shared.runtime.settings import PROCESSES, BrokerSettings, all_settings
from shared.runtime.settings_base import setting
from tests.counts import counted

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "deploy/example.env").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
COMPOSE_FILES = COMPOSE + (ROOT / "deploy/compose.cluster.yml").read_text()
CHART = yaml.safe_load((ROOT / "deploy/kubernetes/modelswap/values.yaml").read_text())
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
ALERTS = (ROOT / "deploy/monitoring/alerts.yml").read_text()
RULES = [rule for group in yaml.safe_load(ALERTS)["groups"] for rule in group["rules"]]
RUNBOOK = (ROOT / "deploy/runbook.md").read_text()
SIMULATOR = (ROOT / "services/simulator/README.md").read_text()

SETTINGS = BrokerSettings(amqp_url=SecretStr("amqp://127.0.0.1"))

#: As the example shows them: (commented out?, name, value).
LINES = [(mark == "#", name, value) for mark, name, value in re.findall(r"(?m)^(#?)([A-Z_]+)=(.*)$", EXAMPLE)]
#: Where `make env` puts a secret.
LEFT_OUT = re.compile(r"^(?=,|$)|(?<=:)$")
MADE_BY_COMPOSE = {"MODELSWAP_AMQP_URL", "MODELSWAP_DATABASE_URL", "MODELSWAP_MANAGEMENT_URL"}
SHARED = dict(re.findall(r"(?m)^x-([\w-]+): &\1\n((?:  .*\n)+)", COMPOSE))
SERVICES = dict(re.findall(r"(?m)^  (\w+):\n((?:    .*\n)+)", COMPOSE.partition("\nservices:\n")[2]))


def in_full(body: str) -> str:
    """A piece of the compose file with everything in it that it merges."""
    return re.sub(r"<<: \*([\w-]+)", lambda merged: in_full("\n" + SHARED[merged[1]]), body)


def written_by_make_env() -> dict[str, str]:
    """What a process sees of .env, together with what compose makes out of the passwords."""
    made = {name: value for commented, name, value in LINES if not commented or name in MADE_BY_COMPOSE}
    return {name: LEFT_OUT.sub(lambda place: f"{place.start():048x}", value) for name, value in made.items()}


def test_the_example_lists_every_setting_once_and_no_other() -> None:
    listed = [name for _, name, _ in LINES if name.startswith("MODELSWAP_")]

    assert set(listed) == set(all_settings()), "deploy/example.env"
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (name, value)
        for commented, name, value in LINES
        if commented and name in all_settings().keys() - MADE_BY_COMPOSE
    ],
)
def test_a_line_that_is_commented_out_shows_the_default(name: str, shown: str) -> None:
    kind = all_settings()[name]
    field = name.removeprefix("MODELSWAP_").lower()

    read = kind.load({**written_by_make_env(), name: shown})

    assert getattr(read, field) == kind.model_fields[field].get_default()


@pytest.mark.parametrize("kind", PROCESSES.values(), ids=PROCESSES)
def test_what_make_env_writes_is_enough_for_every_process(kind) -> None:
    assert kind.load(written_by_make_env())


@pytest.mark.parametrize(("name", "kind"), PROCESSES.items(), ids=PROCESSES)
def test_compose_gives_each_process_just_its_settings(name, kind) -> None:
    by_the_image = {"MODELSWAP_HOST", f"MODELSWAP_{name.upper()}_PORT"}

    given = re.findall(r"(?m)^ +(MODELSWAP_\w+):", in_full(SERVICES[name]))

    assert set(given) == {setting(field) for field in kind.model_fields} - by_the_image, f"{name} in docker-compose.yml"
    assert len(set(given)) == len(given)


def test_compose_gives_the_command_every_setting() -> None:
    by_the_image = {name for name in all_settings() if re.fullmatch(r"MODELSWAP_(HOST|\w+_PORT)", name)}

    given = re.findall(r"(?m)^ +(MODELSWAP_\w+):", in_full(SERVICES["cli"]))

    assert set(given) == all_settings().keys() - by_the_image, "cli in docker-compose.yml"
    assert len(set(given)) == len(given)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_a_memory_limit(name: str) -> None:
    assert re.search(r"(?m)^ *mem_limit: \d+[mg]$", in_full(SERVICES[name]))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_still_starts_can_be_told_to_stop(name: str) -> None:
    # The first process of a container hears no signal that it does not handle yet; an init is first, and passes it on.
    assert "init: true" in in_full(SERVICES[name])


def test_compose_kills_a_process_only_after_its_drain() -> None:
    (seconds,) = re.findall(r"(?m)^ *stop_grace_period: (\d+)s$", COMPOSE)

    assert all("stop_grace_period" in in_full(body) for body in SERVICES.values())
    # As on Kubernetes.
    assert int(seconds) >= CHART["drainSeconds"] + 1.5 * lifecycle._CLOSING_SECONDS + 5
    assert f"{seconds} s in docker-compose.yml" in " ".join(EXAMPLE.replace("\n#", "").split())


def test_compose_refuses_to_start_without_what_has_no_default() -> None:
    demanded = {name for name, _ in re.findall(r"\$\{(\w+):\?([^}]+)\}", COMPOSE_FILES)}
    answered = {name for commented, name, _ in LINES if not commented}

    assert demanded <= answered
    assert demanded >= {name for commented, name, value in LINES if not commented and not value}


def test_compose_holds_no_secret() -> None:
    secrets = re.findall(r"(?:(?:PASS\w*|TOKENS?|SECRETS?): |//\w+:(?=.*@))(.+)", COMPOSE)

    assert secrets
    assert [secret for secret in secrets if not re.match(r"\$\{\w+:\?", secret)] == []


def test_compose_publishes_movable_ports_on_loopback_only() -> None:
    published = re.findall(r"ports: (.+)", COMPOSE)

    moved_by = [re.fullmatch(r'\["127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\2"\]', ports) for ports in published]

    assert published
    assert [ports for ports, moved in zip(published, moved_by, strict=True) if moved is None] == []
    assert {(True, *moved.groups()) for moved in moved_by if moved} <= set(LINES)


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("line", ["read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'])
def test_every_container_is_hardened(name: str, line: str) -> None:
    assert line in in_full(SERVICES[name])


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    assert re.findall(r"(?m)^USER (.+)$", DOCKERFILE) == ["10001:10001"]


def test_every_foreign_image_can_be_pinned_to_a_digest() -> None:
    pinnable = dict(re.findall(r"(?m)\$\{(\w+_IMAGE):-([^}]+)\}", COMPOSE))
    foreign = re.findall(r"(?m)^ +image: (?!modelswap$)(.+)$", COMPOSE) + re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)

    assert {name: f"#{name}={image}" in EXAMPLE for name, image in pinnable.items()} == dict.fromkeys(pinnable, True)
    assert [image for image in foreign if not image.startswith("${")] == []
    assert f"ARG PYTHON_IMAGE={pinnable['PYTHON_IMAGE']}\n" in DOCKERFILE


def test_the_image_is_made_of_named_files_only() -> None:
    first, *others = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]

    assert first == "*"
    assert ".env" not in "".join(others)


def copy_for_make_env(to: Path) -> list[Path]:
    """What `make env` needs, readable by its owner alone; returns what compose mounts of it."""
    mounted = [
        file
        for name in re.findall(r"- \./(\S+?):/", COMPOSE_FILES)
        for file in [ROOT / name, *(ROOT / name).rglob("*")]
    ]
    for path in (ROOT / "deploy/example.env", ROOT / "deploy/make_env.sh", *mounted):
        copied = to / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            copied.mkdir(exist_ok=True)
        else:
            shutil.copy(path, copied)
        copied.chmod(0o700)
    return [to / path.relative_to(ROOT) for path in mounted]


def test_make_env_writes_private_fresh_secrets_once(tmp_path) -> None:
    copy_for_make_env(tmp_path)

    first = subprocess.run([tmp_path / "deploy/make_env.sh"], check=False, capture_output=True)
    written = (tmp_path / ".env").read_text()
    second = subprocess.run([tmp_path / "deploy/make_env.sh"], check=False, capture_output=True)

    secrets = re.findall(r"\b[0-9a-f]{48}\b", written)
    left_out = sum(len(LEFT_OUT.findall(value)) for commented, _, value in LINES if not commented)
    assert (first.returncode, second.returncode) == (0, 1)
    assert re.findall(r"(?m)^[A-Z_]+=(?:|,.*|.*:)$", written) == []
    assert len(set(secrets)) == len(secrets) == left_out
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert (tmp_path / ".env").read_text() == written


def test_make_env_makes_mounted_files_readable(tmp_path) -> None:
    mounted = copy_for_make_env(tmp_path)

    subprocess.run([tmp_path / "deploy/make_env.sh"], check=True, capture_output=True)

    assert mounted
    readable = {True: 0o005, False: 0o004}
    assert [path for path in mounted if ~path.stat().st_mode & readable[path.is_dir()]] == []


def test_alerts_watch_what_is_counted() -> None:
    metrics = [each for each in vars(telemetry).values() if isinstance(each, Counter | Gauge | Histogram)]
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count"]}
    counted = {family.name + end for metric in metrics for family in metric.describe() for end in ends[family.type]}

    watched = set(re.findall(r"\bmodelswap_\w+", ALERTS))

    assert watched
    assert watched <= counted


def test_what_an_alert_sees_rise_is_there_before_it_rises() -> None:
    """To Prometheus, a series that appears as 1 has not risen."""
    for metric in (telemetry.deliveries, telemetry.reconciled):
        metric.clear()
    unused = cast(Any, None)
    RawConsumer(SETTINGS, unused, queue=DEAD_QUEUE, service="ops", keep=unused)
    Reconciler(unused, unused, unused, unused, unused, limits=unused, budget=unused, ref_secrets=())

    for metric, labels in ((telemetry.deliveries, (DEAD_QUEUE, "handled")), (telemetry.reconciled, ("recovered",))):
        assert f"{metric._name}_total{{{said(metric, labels)}}}" in ALERTS
        assert counted(metric)[labels] == 0


def said(metric: Counter, labels: tuple[str, ...]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in zip(metric._labelnames, labels, strict=True))


def test_a_consumer_shows_what_it_may_come_to_from_the_beginning() -> None:
    telemetry.deliveries.clear()
    unused = cast(Any, None)

    Consumer(SETTINGS, unused, queue="q", service="test", handle=unused)

    assert counted(telemetry.deliveries) == {("q", "handled"): 0, ("q", "retried"): 0, ("q", "dead"): 0}


@pytest.mark.parametrize("alert", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook"].startswith("deploy/runbook.md#")


def test_the_promised_minute_is_a_bound_of_its_buckets() -> None:
    bounds = {sample.labels.get("le") for family in telemetry.swap_seconds.collect() for sample in family.samples}

    assert 'le="60.0"' in ALERTS
    assert "60.0" in bounds


def test_alerts_lead_to_a_place_in_the_runbook() -> None:
    places = {"-".join(title.lower().split()) for title in re.findall(r"(?m)^## (.+)$", RUNBOOK)}

    led_to = set(re.findall(r"deploy/runbook\.md#([\w-]+)", ALERTS)) | set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK))

    assert led_to
    assert led_to <= places


def test_how_long_retries_take_is_told_as_it_is() -> None:
    minutes = sum(DELAYS, timedelta()) // timedelta(minutes=1)
    told = f"{minutes // 60} h {minutes % 60} min"

    assert told in RUNBOOK
    assert told in UNDERWAY


def test_the_faults_that_the_page_orders_can_be_ordered() -> None:
    ordered = re.findall(r"/_simulator/(faults|api-faults) -d '(.*)'", SIMULATOR)

    assert {kind for kind, _ in ordered} == {"faults", "api-faults"}
    for kind, body in ordered:
        (FaultOrder if kind == "faults" else ApiFaultOrder).model_validate_json(body)


#: What is raised here may become a dead letter.
RAISE = (
    *(
        "services/extractor",
        "services/state/swap.py",
        "services/state/ownership.py",
        "services/ops/replays/outcomes.py",
    ),
    *("services/ops/letters/failure.py", "services/notifier/message.py", "services/notifier/attempts.py"),
    *("shared/contract/envelope.py", "shared/contract/errors.py", "shared/contract/limits.py"),
    *("shared/runtime/broker/frames.py", "shared/runtime/broker/publisher.py"),
    *("shared/replicate/errors.py", "shared/replicate/translate.py"),
)
#: Each is only the class of others, is retried for ever, or is told to a client.
NO_DEAD_LETTERS = {
    *("error", "transient", "permanent", "does_not_work", "version_not_listed", "not_succeeded", "endpoint_busy"),
    *("webhook_not_accepted", "dependency_down", "operator_needed", "replicate_throttled", "replicate_unknown_outcome"),
    *("broker_unconfirmed", "broker_unroutable"),
}


def codes_in(file: Path) -> Iterator[str]:
    """The error codes that the code of *file* names."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.keyword(arg="code", value=ast.expr() as named):
                pass
            case ast.Assign(targets=[ast.Name("code" | "codes")], value=named):
                pass
            case _:
                continue
        yield from (
            each.value for each in ast.walk(named) if isinstance(each, ast.Constant) and isinstance(each.value, str)
        )


def test_the_runbook_says_what_to_do_about_each_dead_letter() -> None:
    files = [file for name in RAISE for file in ((ROOT / name).glob("*.py") if "." not in name else [ROOT / name])]
    codes = {code for file in files for code in codes_in(file)} | set(Flaw) | {UNEXPECTED, "unknown"}
    table = RUNBOOK.partition("| error | means | do |")[2].partition("\n\n")[0]

    told = {code for row in table.splitlines()[1:] for code in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert told == codes - NO_DEAD_LETTERS


def test_the_runbook_names_each_loop() -> None:
    code = "".join(file.read_text() for folder in ("services", "shared") for file in (ROOT / folder).rglob("*.py"))
    loops = set(re.findall(r"""(?:run_periodically|SetAside|LookUps|pauses)\(\s*"([^"]+)\"""", code))

    assert len(loops) > 20
    assert [loop for loop in loops if f"`{loop}`" not in RUNBOOK] == []


def test_the_runbook_says_what_each_refusal_of_a_webhook_means() -> None:
    assert [result for result in _RESULTS if result != "accepted" and f"`{result}`" not in RUNBOOK] == []


@pytest.mark.parametrize("page", ["deploy/runbook.md", "deploy/kubernetes/modelswap/README.md"])
def test_kubectl_is_told_the_namespace(page: str) -> None:
    said = (ROOT / page).read_text()
    typed = re.findall(r"kubectl\s+(?!create namespace|label namespace|apply -f -)([\w-]+\s+\w+)", said)

    assert len(typed) > 5
    assert {" ".join(each.split()) for each in typed} == {"--namespace modelswap"}
