"""
Private RabbitMQ and Postgres from the command line.

    python -m deploy.local run -- COMMAND      run COMMAND with both, then stop them and delete their data
    python -m deploy.local up                  run both until Ctrl-C

MODELSWAP_DATABASE_URL is the superuser's; `modelswap db roles` makes the roles that services log in as.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.local.errors import LocalServersError
from deploy.local.servers import Servers, local_servers
from shared.runtime.guard import die_with_parent

_SHELLS_INTERRUPTED: Final = 130
_CLEANUP_SECONDS: Final = 10

say = functools.partial(print, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    # Cut at "--" by hand: argparse would take the command's options for ours.
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[cut + 1 :]
    options = _parser().parse_args(arguments[:cut])
    if (options.action == "run") != bool(command):
        _parser().error("`run` needs a command after --; `up` takes none")
    try:
        with local_servers(
            rabbitmq=options.rabbitmq, postgres=options.postgres, nodes=options.nodes, state=options.state, say=say
        ) as servers:
            return run(command, servers) if command else up(servers)
    except LocalServersError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return _SHELLS_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "up"])
    parser.add_argument("--rabbitmq", default="auto", metavar="SERIES", help="3.10, 4 or auto (default)")
    parser.add_argument("--postgres", default="auto", metavar="SERIES", help="15, 17, ... or auto (default)")
    parser.add_argument("--nodes", type=int, default=1, metavar="NUMBER", help="of RabbitMQ; 1 (default) or more")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="keep data, ports and password in FOLDER")
    return parser


def environment(servers: Servers) -> dict[str, str]:
    return {
        "MODELSWAP_AMQP_URL": servers.amqp_url,
        "MODELSWAP_DATABASE_URL": servers.database_url,
        "RABBITMQ_MANAGEMENT_URL": servers.management_url,
    }


def run(command: Sequence[str], servers: Servers) -> int:
    """Run *command*; if this process is killed, SIGTERM ends it."""
    die = functools.partial(die_with_parent, os.getpid())
    try:
        child = subprocess.Popen(command, env={**os.environ, **environment(servers)}, preexec_fn=die)  # noqa: PLW1509 (one thread)
    except OSError as error:
        raise LocalServersError(f"{command[0]} cannot be run: {error}") from error
    try:
        status = child.wait()
    except KeyboardInterrupt:  # the terminal has interrupted the child as well
        status = _patiently(child)
    return status if status >= 0 else 128 - status


def _patiently(child: subprocess.Popen[bytes]) -> int:
    """Give *child* time to clean up before it is terminated."""
    try:
        return child.wait(_CLEANUP_SECONDS)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        child.terminate()
        return child.wait()


def up(servers: Servers) -> int:
    for name, value in environment(servers).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    sys.stdout.flush()
    say("Ctrl-C stops them")
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
