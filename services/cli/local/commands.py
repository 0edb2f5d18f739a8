"""Commands that run and check everything on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli.choices import Format, Process
from services.cli.options import Output, group, run_async

config = group("config", "Settings of the processes.")
db = group("db", "The database.")
topology = group("topology", "Exchanges, queues and users on the broker.")


def demo() -> None:
    """
    Watch three trainings, without any setup.

    One succeeds; one fails, and its user keeps the old model; one replaces a model that works until the swap. With
    private servers, all services and a simulated Replicate: after two minutes at most everything is deleted again.
    """
    from services.cli.local.demo import demo as run

    run(os.environ)


def up(
    *,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="With a private RabbitMQ and Postgres, and generated secrets.")
    ] = False,
    nodes: Annotated[
        int, typer.Option(min=1, max=9, help="With --embedded: so many nodes of RabbitMQ, as one broker.")
    ] = 1,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Keep everything in this folder for the next run: the private servers' data, the secrets, and the "
            "state of the simulated Replicate. Without it, all of that is deleted at the end.",
            metavar="DIR",
            file_okay=False,
        ),
    ] = None,
    simulator: Annotated[
        bool | None,
        typer.Option(
            "--simulator/--no-simulator",
            help="With a simulated Replicate. Default: with --embedded, unless MODELSWAP_REPLICATE_API_TOKEN is set.",
        ),
    ] = None,
    example: Annotated[
        bool,
        typer.Option(
            "--example",
            help="With an example of a subscriber, deploy/examples/generator.py, which prints each change of a model.",
        ),
    ] = False,
    restart: Annotated[
        Process | None,
        typer.Option(
            help="Restart this process of the `modelswap up` in another terminal; return when it is ready. "
            "Which `up`: give its --state, or `source` the file that it names at its start.",
        ),
    ] = None,
) -> None:
    """
    Run all services on this machine until Ctrl-C.

    A process or a private server that ends by itself is restarted, after half a second, and later each time it ends
    soon again, up to 30 seconds. Exit code 1 if one ends before all are ready.
    """
    # make hands over a ~ as it is.
    state = state.expanduser().absolute() if state else None
    if restart is not None:
        from services.cli.local.control import ask_to_restart, folder_of_up

        ask_to_restart(folder_of_up(state), restart.value)
        print(f"{restart.value} is ready again")
        return
    if nodes > 1 and not embedded:
        raise typer.BadParameter("is for private servers: add --embedded", param_hint="--nodes")
    from services.cli.local.up import up as run

    run(os.environ, nodes=nodes if embedded else 0, state=state, simulator=simulator, example=example)


def serve(name: Annotated[Process, typer.Argument(help="The process.")]) -> None:
    """Run one process, as `python -m services.NAME` does."""
    import runpy
    import signal
    import sys

    # A container's first process does not hear SIGTERM before it has a handler. To import the process takes a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runpy.run_module(f"services.{name}", run_name="__main__", alter_sys=True)


def doctor(output: Output = Format.TABLE) -> None:
    """
    Check settings, broker, database and Replicate.

    Says what to do about each problem. Exit code 1 if something is wrong.
    """
    from services.cli.local.doctor import examine, print_findings

    findings = run_async(examine(os.environ))
    if not print_findings(findings, output):
        raise typer.Exit(1)


def console(
    *,
    only_print: Annotated[bool, typer.Option("--print", help="Print the link, and open no browser.")] = False,
) -> None:
    """
    Open the console in a browser, signed in.

    With a link that works once, for ten minutes. It signs in as the first token of MODELSWAP_OPS_TOKENS, which is not
    part of it. MODELSWAP_CONSOLE_URL is where the browser reaches the console, if not at MODELSWAP_OPS_URL. The browser
    gets the link in a temporary file that only you can read; one that may not read it, such as a snap, needs --print.

    Example: modelswap console --print
    """
    from services.cli.local.console import make_link, show

    show(run_async(make_link(os.environ)), only_print=only_print)


@config.command("show")
def config_show(output: Output = Format.TABLE) -> None:
    """
    Show the current value of every setting.

    Secrets are masked. Shows the source of each setting and which processes read it.
    """
    from services.cli.local.config import show

    show(os.environ, output)


@db.command("migrate")
def db_migrate() -> None:
    """Apply all pending migrations."""
    from services.cli.local import servers

    for name in run_async(servers.migrate(os.environ)):
        print(f"applied {name}")
    print("the database is up to date")


@db.command("roles")
def db_roles() -> None:
    """
    Create the database and its roles.

    They are named modelswap and modelswap_…. MODELSWAP_DATABASE_URL must be a superuser's here. The roles' passwords
    are POSTGRES_OWNER_PASSWORD, POSTGRES_STATE_PASSWORD, POSTGRES_OPS_PASSWORD and POSTGRES_NOTIFIER_PASSWORD, or, with
    _FILE behind the name, in files; changed ones are set. Run it before `db migrate`, which logs in as the owner.
    """
    from services.cli.local import roles
    from services.cli.local.database import database_url

    run_async(roles.make_roles(database_url(os.environ), roles.find_passwords(os.environ)))
    print("the roles are up to date")


@db.command("status")
def db_status(output: Output = Format.TABLE) -> None:
    """
    Show which migrations are applied.

    Exit code 1 if some are not.
    """
    from services.cli.local import servers

    if not servers.print_migrations(run_async(servers.migration_status(os.environ)), output):
        raise typer.Exit(1)


@topology.command("apply")
def topology_apply() -> None:
    """
    Declare every exchange and queue, and create users.

    Existing exchanges and queues are not changed. The users are modelswap-receiver, modelswap-extractor and so on, one
    for each process, with the rights that it needs. They are created, or updated, if RABBITMQ_RECEIVER_PASSWORD,
    RABBITMQ_EXTRACTOR_PASSWORD and so on are set, or RABBITMQ_RECEIVER_PASSWORD_FILE and so on: all five, or none. This
    needs MODELSWAP_MANAGEMENT_URL.
    """
    from services.cli.local import servers, users

    there = run_async(servers.declare_topology(os.environ))
    print(f"{len(there.exchanges)} exchanges and {len(there.queues)} queues are declared")
    if users.find_passwords(os.environ):
        print(f"{len(users.PASSWORDS)} users are up to date")


@topology.command("diff")
def topology_diff(output: Output = Format.TABLE) -> None:
    """
    Show what is missing on the broker, or differs.

    Bindings and users are compared if MODELSWAP_MANAGEMENT_URL is set. Exit code 1 if something is missing or differs.
    """
    from services.cli.local import servers

    if not servers.print_differences(run_async(servers.diff_topology(os.environ)), output):
        raise typer.Exit(1)
