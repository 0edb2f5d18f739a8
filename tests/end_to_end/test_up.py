"""`modelswap up --embedded` keeps everything running and what it knows, and the runbook can be rehearsed on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from services.cli.local.stack import TRAINER
from shared.contract.rights import USERS
from shared.runtime.ports import free_ports
from tests import visitor
from tests.broker import Broker
from tests.stack import ROOT, plain_client
from tests.up import SERVICES, Up, up

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
    pytest.mark.own_servers,
]

#: A training takes two seconds.
_SPEED: Final = "300"
_RUNBOOK: Final = (ROOT / "deploy/runbook.md").read_text()
#: Asked with curl: a `modelswap` takes seconds to start on a busy machine.
_UNTIL_THREE_LETTERS: Final = """\
until curl -sS -H "Authorization: Bearer $MODELSWAP_OPS_TOKENS" \\
  "$MODELSWAP_OPS_URL/v1/dead-letters?error_code=no_version" \\
  | grep -o '"number":' | wc -l | grep -qx 3; do sleep 0.1; done
"""
_IN_THE_RUNBOOK: Final = "/var/tmp/modelswap-rehearsal"


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A folder that the servers' own user can walk to, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="modelswap-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, str]]:
    """A port for each process, until the end: the servers that `up` starts before them take others."""
    with free_ports(len(SERVICES)) as free:
        ports = {f"MODELSWAP_{name.upper()}_PORT": str(port) for name, port in zip(SERVICES, free, strict=True)}
        yield {**ports, "MODELSWAP_SIMULATOR_SPEED": _SPEED}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, and of its bytecode: the rehearsal mends it."""
    folder = tmp_path_factory.mktemp("code")
    for room in ("services", "shared", "deploy"):
        shutil.copytree(ROOT / room, folder / room)
    return folder


@pytest.fixture(scope="module")
async def running(state: Path, sources: Path, settings: dict[str, str]) -> AsyncIterator[Up]:
    """One for all tests of this file, which speaks to programs."""
    async with up(state, sources, {**settings, "MODELSWAP_LOG_FORMAT": "json"}, "--example") as running:
        yield running


async def train(running: Up, user: str) -> str:
    """Start a training; its id."""
    body = {"user_id": user, "destination": f"demo/{user}", "trigger_word": "TOK", "trainer": TRAINER, "input": {}}
    started = await running.ask("state", "/v1/trainings", body=body)
    assert started is not None
    return str(started["training_id"])


async def until_ready(running: Up) -> None:
    """Wait until both can work that a training begins with: state registers it, the receiver takes its webhooks."""
    async with asyncio.timeout(120):
        while not all([await running.ask(service, "/readyz") for service in ("receiver", "state")]):
            await asyncio.sleep(0.1)


async def until_active(running: Up, training: str) -> dict[str, Any]:
    seen = None
    async with asyncio.timeout(120):
        while not seen or seen["stage"] != "active":
            seen = await running.ask("state", f"/v1/trainings/{training}")
            assert seen is None or not seen["failure"], seen
            await asyncio.sleep(0.05)
    return dict(seen)


async def logged_in(database_url: str) -> set[tuple[str, bool]]:
    """Everyone with a connection to the database, and whether that is a superuser."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetch(
            """
            SELECT usename, usesuper FROM pg_stat_activity JOIN pg_user USING (usename)
            WHERE datname = 'modelswap'
            """
        )
    finally:
        await connection.close()
    return {(row["usename"], row["usesuper"]) for row in found}


async def test_a_process_that_is_killed_is_started_again(running):
    killed, before = running.child("extractor"), len(running.err)

    os.kill(killed, signal.SIGKILL)

    said = await running.until_said("extractor ended", after=before)
    assert said == "extractor ended with exit code -9; it is restarted in 0.5 s"
    await until_active(running, await train(running, "kim"))
    assert running.child("extractor") not in (0, killed)
    assert running.process.returncode is None


@pytest.mark.parametrize(
    ("server", "command"),
    [("RabbitMQ", "beam.smp"), ("Postgres", "/bin/postgres"), ("RabbitMQ's port mapper", "bin/epmd")],
)
async def test_a_private_server_that_is_killed_is_started_again(running, server, command):
    killed, before = running.server(command), len(running.err)
    assert killed

    os.kill(killed, signal.SIGKILL)

    said = await running.until_said(f"{server} ended", after=before, seconds=60)
    assert said == f"{server} ended; it is restarted in 0.5 s"
    await until_ready(running)
    await until_active(running, await train(running, Path(command).name))
    assert running.server(command) not in (0, killed)


async def test_the_simulator_knows_its_trainings_after_a_crash(running):
    training = await train(running, "lea")

    os.kill(running.child("simulator"), signal.SIGKILL)

    active = await until_active(running, training)
    assert active["training_id"] == training
    assert (await running.ask("state", "/v1/users/lea/model"))["reference"] == active["reference"]


async def test_one_process_is_restarted_on_request(running):
    before = running.child("state")

    code, said = await running.modelswap("up", "--restart", "state")

    assert (code, said) == (0, "state is ready again\n")
    assert running.child("state") not in (0, before)
    assert await running.ask("state", "/readyz")


async def test_no_process_logs_in_as_a_superuser(running):
    assert await logged_in(running.exported()["MODELSWAP_DATABASE_URL"]) == {
        ("modelswap_owner", False),
        ("modelswap_state_login", False),
        ("modelswap_ops_login", False),
        ("modelswap_notifier_login", False),
    }


async def test_each_process_logs_in_to_rabbitmq_as_its_own_user(running):
    management_url = running.exported()["MODELSWAP_MANAGEMENT_URL"]
    expected = {*USERS.values(), "modelswap-subscription-example"}
    users: set[str] = set()

    # RabbitMQ tells of a connection, and of its end, after some seconds.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60), plain_client(base_url=management_url) as management:
            while users != expected:
                await asyncio.sleep(0.2)
                users = {each.get("user") for each in (await management.get("/api/connections?columns=user")).json()}

    assert users == expected


async def test_an_operator_adds_a_subscription(running):
    code, said = await running.modelswap("subscriptions", "add", "generator", "--events", "model.activated.v1")

    assert code == 0
    assert re.search(r"address +amqp://modelswap-subscription-generator:\S+@127", said)
    assert (await running.modelswap("subscriptions", "remove", "generator", "--yes"))[0] == 0


async def sign_in(link: str) -> int:
    """Press the button of a one-time link; the status of the answer."""
    async with plain_client() as http:
        return (await http.post(link.partition("?")[0], data={"code": link.partition("code=")[2]})).status_code


async def test_the_link_of_up_signs_in_to_the_console(running):
    link = (await running.until_said("console  ")).split()[1]

    assert link.startswith(running.exported()["MODELSWAP_OPS_URL"] + "/sign-in?code=")
    assert [await sign_in(link), await sign_in(link)] == [303, 401]


async def test_a_command_prints_or_opens_a_link_without_the_token(running):
    printed = await running.modelswap("console", "--print")
    environment = shlex.quote(str(running.state / "env"))
    opened = await running.type(f"source {environment} && BROWSER='echo %s' modelswap console")

    (link,) = re.findall(r"(?m)^(http://\S+)$", printed[1])
    (file,) = re.findall(r"(?m)^file://(\S+)$", opened[1])
    page = await asyncio.to_thread(Path(file).read_text)
    (given,) = re.findall(r'url=(http://[^"]+)"', page)
    assert (printed[0], opened[0], await sign_in(link), await sign_in(given)) == (0, 0, 303, 303)
    assert "/sign-in?code=" not in opened[1]
    assert "opened in your browser" in opened[1]
    assert running.exported()["MODELSWAP_OPS_TOKENS"] not in printed[1] + opened[1]


async def test_a_state_whose_services_were_superusers_is_refused(tmp_path):
    state = tmp_path
    state.chmod(0o711)
    (state / "secrets.json").write_text('{"API_TOKENS": "made-by-an-earlier-version"}')

    told = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.cli", "up", "--embedded", "--state", str(state)],
        cwd=ROOT,
        env={**os.environ, **{f"MODELSWAP_{name.upper()}_PORT": "0" for name in SERVICES}},
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 1
    assert f"{state} was made by an earlier modelswap, whose services were superusers" in told.stderr
    assert f"Next: rm -r {state}" in told.stderr


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("--restart nobody --state {state}", 2, "'receiver', 'extractor', 'state', 'ops'"),
        ("--restart ops --state /nowhere", 1, "modelswap: no `modelswap up` runs with /nowhere\nNext: "),
        ("--restart ops", 1, "modelswap: which `modelswap up`? This terminal does not have its settings\nNext: "),
    ],
)
async def test_a_restart_that_can_not_be_says_why(running, typed, code, said):
    command = f"{sys.executable} -m services.cli up {typed.format(state=running.state)}"

    ended, out = await running.type(command)

    assert ended == code
    assert said in re.sub(r"[│\s]+", " ", out) or said in out


async def test_the_example_prints_each_new_model(running):
    active = await until_active(running, await train(running, "eva"))

    said = await running.until_said("eva generation")

    assert said.endswith(f"generator │ eva generation {active['generation']}: {active['reference']}")


async def test_a_visitor_with_the_readme_alone_gets_every_model(running, tmp_path):
    subscribe, install_client = visitor.block("sh")
    lines = visitor.block("python")
    python = await asyncio.to_thread(visitor.install, tmp_path, install_client)
    code, said = await running.modelswap(*shlex.split(subscribe)[1:])
    settings = running.exported()
    environment = {
        "AMQP_URL": re.findall(r"amqp://\S+", said)[0],
        "API_URL": settings["MODELSWAP_API_URL"],
        "API_TOKEN": settings["MODELSWAP_API_TOKENS"].partition(",")[0],
    }

    async def model_of(user: str) -> str:
        return f"{user} {(await until_active(running, await train(running, user)))['reference']}"

    before = await model_of("sub-1")
    async with visitor.started(python, lines, environment) as first:
        await first.until_said(before)
        live = await model_of("sub-2")
        await first.until_said(live)
    meanwhile = await model_of("sub-3")
    async with visitor.started(python, lines, environment) as again:
        await again.until_said(meanwhile)
        await Broker(settings["MODELSWAP_AMQP_URL"]).delete_queue("modelswap.subscription.generator")
        await again.until_said("reading modelswap.events.log instead")
        by_log = await model_of("sub-4")
        await again.until_said(by_log)
    last = await model_of("sub-5")
    async with visitor.started(python, lines, environment) as at_last:
        await at_last.until_said(last)
        await at_last.until_said("reading modelswap.events.log instead")

    assert code == 0
    assert len(lines) <= 12
    assert all(len(set(script.out)) == len(script.out) for script in (first, again, at_last))
    assert {before, live, meanwhile, by_log, last} <= set(at_last.out)
    assert first.err == []
    assert not [line for line in again.err if "Traceback" in line], "\n".join(again.err)


def rehearsal() -> list[tuple[str, list[str]]]:
    """Each block of commands in the runbook's rehearsal, and the lines that it promises."""
    section = re.split(r"(?m)^## ", _RUNBOOK.partition("\n## Rehearse it\n")[2])[0]
    blocks = re.findall(r"(?ms)^( *)```(sh|text)\n(.*?)^ *```$", section)
    steps: list[tuple[str, list[str]]] = []
    for indent, kind, text in blocks:
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        if kind == "sh":
            steps.append(("\n".join(lines), []))
        else:
            steps[-1][1].extend(lines)
    return steps


def is_said(promise: str, said: str) -> bool:
    """Does a line of *said* read as *promise*, in which … stands for anything? White space does not count."""
    pattern = ".*".join(re.escape(" ".join(part.split())).replace(r"\ ", " ") for part in promise.split("…"))
    return any(re.fullmatch(pattern.strip(), " ".join(line.split())) for line in said.splitlines())


async def test_an_operator_can_rehearse_the_runbooks_incident(running, sources):
    (start, _), *steps = rehearsal()
    tidy_up, _ = steps.pop()
    # All in one shell, as in one terminal; a line between two blocks tells which of them said what.
    script = "\n".join(f"{typed}\necho '=== block'" for typed, _ in steps)
    # Letters are kept a moment after their trainings have ended, and nobody types that fast.
    groups = "modelswap dead-letters groups"
    script = script.replace(groups, f"{_UNTIL_THREE_LETTERS}{groups}", 1)

    _, said = await running.type(script.replace(_IN_THE_RUNBOOK, str(running.state)), seconds=600)

    assert start == f"make up STATE={_IN_THE_RUNBOOK}"
    assert 'up --embedded $(if $(STATE),--state "$(STATE)")' in (ROOT / "Makefile").read_text()
    answers = said.split("=== block\n")
    assert len(answers) == len(steps) + 1, said
    broken = [
        f"{promise!r}\nis not said by\n{typed}\nwhich says\n{answer}"
        for (typed, promises), answer in zip(steps, answers, strict=False)
        for promise in promises
        if not is_said(promise, answer)
    ]
    assert not broken, "\n\n".join(broken)
    ended, out = await running.type(tidy_up.replace(f"rm -r {_IN_THE_RUNBOOK}", "true"))
    assert (ended, out) == (0, "")
    mended = Path("services/extractor/outputs.py")
    assert (sources / mended).read_text() == (ROOT / mended).read_text()


async def test_for_programs_every_line_of_standard_output_is_json(running):
    lines = [json.loads(line) for line in running.out]

    assert {line["service"] for line in lines} == set(SERVICES)
    assert "Ctrl-C stops everything." in running.err


async def test_the_next_run_goes_on_where_this_one_stopped(running, state, sources, settings):
    training = await train(running, "mia")
    first = running.exported()
    assert await running.stop() == 0

    # Of a terminal that has sourced the settings of the first run.
    async with up(state, sources, {**first, **settings, "MODELSWAP_LOG_FORMAT": "console"}) as again:
        second = again.exported()
        active = await until_active(again, training)
        trainings = await again.ask("simulator", "/_simulator/trainings")
        assert await again.stop() == 0

    assert active["user_id"] == "mia"
    assert training in [each["id"] for each in trainings["trainings"]]
    kept = ("MODELSWAP_API_TOKENS", "MODELSWAP_REF_SECRETS", "MODELSWAP_AMQP_URL", "MODELSWAP_DATABASE_URL")
    assert [first[name] for name in kept] == [second[name] for name in kept]
    assert {line.split(" │ ")[0].strip() for line in again.out if " │ " in line} == set(SERVICES)
    simulator = f"Replicate: the simulator at {second['MODELSWAP_REPLICATE_API_URL']}, since "
    assert [line for line in again.out if line.startswith(simulator)]
    assert f"  source {state / 'env'}" in again.out
    password = urlsplit(second["MODELSWAP_AMQP_URL"]).password
    assert password
    assert [line for line in again.out if password in line] == []
