"""`modelswap up`: run private servers if wanted, then all processes, until Ctrl-C. Edge."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.text import Text

from services.cli.client import Body, first_secret
from services.cli.local import control, servers
from services.cli.local.children import Children, Hear
from services.cli.local.console import console_address
from services.cli.local.private import Say, private_servers
from services.cli.local.stack import (
    GENERATOR,
    SERVICES,
    SIMULATOR,
    TRAINER,
    Environment,
    Logins,
    Plan,
    choose_replicate,
    exports,
    overridden,
    plan,
    url_of,
    without_login,
    without_settings,
)
from services.cli.local.supervisor import Server, Supervisor, keep_server
from services.cli.operators.client import operators
from services.cli.output import console
from services.cli.problem import Problem
from services.ops.subscriptions.views import PasswordRotated, SubscriptionAdded
from shared.contract.brokers import split_addresses
from shared.contract.events import ModelActivated, ModelWithdrawn
from shared.runtime.guarded import removed_afterwards
from shared.runtime.private_files import write_private
from shared.runtime.settings import ClientSettings, SimulatorSettings, StateSettings
from shared.runtime.settings_base import PREFIX

_COLOURS: Final = {
    "receiver": "cyan",
    "extractor": "magenta",
    "state": "green",
    "ops": "yellow",
    "notifier": "red",
    "simulator": "blue",
    GENERATOR: "white",
}
_EXAMPLE: Final = "deploy.examples.generator"
#: Not the one that the subscribers' page adds.
_SUBSCRIPTION: Final = "/v1/subscriptions/example"
_REASON: Final = "modelswap up --example"


def up(environment: Environment, *, nodes: int, state: Path | None, simulator: bool | None, example: bool) -> None:
    """
    Run all services until Ctrl-C and restart those that end; raise if one ends before all are ready.

    *nodes* is the number of private RabbitMQ nodes; with 0, RabbitMQ and Postgres are those of *environment*.
    """
    embedded = nodes > 0
    for_programs = environment.get(f"{PREFIX}LOG_FORMAT") == "json"
    out = console(stderr=for_programs)
    # In a script's background, Ctrl-C is ignored by default: the command would outlive the script.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def say(text: str) -> None:
        out.print(Text(text), soft_wrap=True)

    def hear(name: str, line: str) -> None:
        if for_programs and _is_object(line):
            # A log line names its service. Other output, such as a traceback, is for people.
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            return
        out.print(Text(f"{name:>9} │ ", style=_COLOURS[name]) + Text(line), soft_wrap=True)

    try:
        with ExitStack() as stack:
            if example:
                _check_example()
            replicate = choose_replicate(environment, embedded=embedded, simulator=simulator)
            logins: Logins = {}
            private: Sequence[Server] = ()
            if embedded:
                # Before the servers take their time.
                _check_ports(environment, (SIMULATOR, *SERVICES) if replicate.is_simulated else SERVICES)
                started = private_servers(environment, state, say, nodes=nodes)
                environment, logins, private = stack.enter_context(started)
            folder = stack.enter_context(_folder(state))
            # This terminal may have the setting of another run, with that run's folder.
            environment = overridden(environment, {"SIMULATOR_STATE": str(folder / "simulator.sqlite3")})
            everything = plan(environment, simulator=replicate.is_simulated, logins=logins)
            _check_ports(everything.environment, everything.services)
            say(f"Replicate: {replicate.why}")
            hint, restart = "# with the settings of this one", f"modelswap up --restart extractor --state {folder}"
            if embedded:
                hint, restart = f"source {_export(everything.environment, folder)}", "modelswap up --restart extractor"
            listener = stack.enter_context(control.listening(folder))
            hints = _hints(everything, hint, restart)
            asyncio.run(_run(everything, listener, say, hear, hints, private=private, example=example))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("modelswap: everything is stopped")


def _check_ports(environment: Environment, services: Sequence[str]) -> None:
    """Report all ports at once on which a process cannot listen."""
    refused = []
    for name in services:
        address = urlsplit(url_of(environment, name))
        try:
            with socket.socket(socket.AF_INET6 if "[" in address.netloc else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
                probe.bind((address.hostname, address.port))
        except OSError as error:
            why = f"{name} cannot listen on {address.netloc} ({error.strerror})"
            refused.append(f"{why}: set MODELSWAP_{name.upper()}_PORT")
    if refused:
        then = "the same command with other ports; if `modelswap up` runs already, end that"
        raise Problem("; ".join(refused), then=then)


async def prepare(environment: Environment, say: Say) -> None:
    for name in await servers.migrate(environment):
        say(f"Postgres: migration {name} applied")
    topology = await servers.declare_topology(environment)
    say(f"RabbitMQ: {len(topology.exchanges)} exchanges and {len(topology.queues)} queues are declared")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


async def _run(
    everything: Plan,
    listener: socket.socket,
    say: Say,
    hear: Hear,
    hints: str,
    *,
    private: Sequence[Server],
    example: bool,
) -> None:
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await prepare(everything.environment, say)
    async with Children(hear) as children:
        for name in everything.services:
            await children.start(name, everything.environment_of(name))
        await children.until_ready(everything.urls)
        subscriber = await _example_environment(everything) if example else None
        say(f"\nconsole        {await console_address(everything)}\n{hints}")
        async with asyncio.TaskGroup() as group:
            for server in private:
                group.create_task(keep_server(server, say))
            supervisor = Supervisor(children, everything, group, say)
            if subscriber is not None:
                await supervisor.add(GENERATOR, subscriber)
            await control.serve(listener, supervisor.restart)


def _hints(everything: Plan, hint: str, restart: str) -> str:
    urls = everything.urls
    management = split_addresses(everything.environment.get(f"{PREFIX}MANAGEMENT_URL", ""))[0]
    auth = '-H "Authorization: Bearer ${MODELSWAP_API_TOKENS%%,*}"'
    lines = [
        f"webhooks       {urls['receiver']}/webhooks/replicate",
        f"product's API  {urls['state']}/v1/docs",
        *(f"{name:<15}{url}/readyz" for name, url in urls.items()),
        *([f"RabbitMQ       {without_login(management)}  # log in as ${PREFIX}AMQP_URL does"] if management else []),
        "",
        "Try it in another terminal:",
        f"  {hint}",
    ]
    if "simulator" in urls:
        body = json.dumps(
            {
                "user_id": "ann",
                "destination": "demo/ann",
                "trigger_word": "ANN",
                "trainer": TRAINER,
                "input": {"steps": 1000},
            }
        )
        speed = SimulatorSettings.load(everything.environment).simulator_speed
        lines += [
            f"  # the simulator stands in for Replicate; its trainings run {speed:g} times as fast as real ones",
            f"  curl {auth} -H 'Content-Type: application/json' {urls['state']}/v1/trainings -d '{body}'",
            f"  curl {urls['simulator']}/_simulator/faults    # faults to order: see services/simulator/README.md",
        ]
    elif urls["receiver"] == StateSettings.load(everything.environment).public_url:
        lines.append("  # Replicate cannot reach this machine: point MODELSWAP_PUBLIC_URL at a tunnel to the receiver")
    lines += [
        "  modelswap console              # another link to the console, opened in your browser",
        "  modelswap trainings watch",
        "  modelswap listen",
        f"  curl {auth} {urls['state']}/v1/users/ann/model",
        f"  {restart}",
        "",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def _check_example() -> None:
    if find_spec("deploy") is None or find_spec(_EXAMPLE) is None:
        raise Problem("the example is not part of this installation", then="the same command in a checkout")


async def _example_environment(everything: Plan) -> Environment:
    """Add the example's subscription, or give it a new password; return the example's environment."""
    settings = overridden(everything.environment, {"OPS_URL": everything.urls["ops"]})
    body: Body = {"events": [ModelActivated.key, ModelWithdrawn.key], "reason": _REASON}
    async with operators(settings) as api:
        amqp_url = (await api.ask(SubscriptionAdded, "PUT", _SUBSCRIPTION, body=body)).amqp_url
        if amqp_url is None:
            rotated = await api.post(PasswordRotated, f"{_SUBSCRIPTION}/rotate-password", {"reason": _REASON})
            amqp_url = rotated.amqp_url
    return {
        **without_settings(everything.environment),
        "AMQP_URL": amqp_url,
        "API_URL": everything.urls["state"],
        "API_TOKEN": first_secret(ClientSettings.load(settings).api_tokens),
    }


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    """Yield *state*, created if missing; without one, a private folder that is deleted afterwards."""
    if state is None:
        with removed_afterwards(Path(tempfile.mkdtemp(prefix="modelswap-up-"))) as folder:
            yield folder
    else:
        state.mkdir(parents=True, exist_ok=True)
        yield state


def _export(environment: Environment, folder: Path) -> Path:
    """Write the settings to a file that only its owner can read, for another terminal to source."""
    file = folder / "env"
    # So that the other terminal finds `modelswap` too.
    path = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n'
    ours = f"export {control.UP_FOLDER}={shlex.quote(str(folder))}\n"
    write_private(file, path + ours + exports(environment))
    return file
