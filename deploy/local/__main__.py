"""
Private RabbitMQ and Postgres from the command line, until Ctrl-C.

    python -m deploy.local up

MODELSWAP_DATABASE_URL is the superuser's; `modelswap db roles` makes the roles that services log in as.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.local.errors import LocalServersError
from deploy.local.servers import Servers, local_servers

_SHELLS_INTERRUPTED: Final = 130

say = functools.partial(print, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        with local_servers(
            rabbitmq=options.rabbitmq, postgres=options.postgres, nodes=options.nodes, state=options.state, say=say
        ) as servers:
            sys.stdout.write(_exports(servers))
            sys.stdout.flush()
            say("Ctrl-C stops them")
            signal.pause()
    except LocalServersError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return _SHELLS_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["up"])
    parser.add_argument("--rabbitmq", default="auto", metavar="SERIES", help="3.10, 4 or auto (default)")
    parser.add_argument("--postgres", default="auto", metavar="SERIES", help="15, 17, ... or auto (default)")
    parser.add_argument("--nodes", type=int, default=1, metavar="NUMBER", help="of RabbitMQ; 1 (default) or more")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="keep data, ports and password in FOLDER")
    return parser


def _exports(servers: Servers) -> str:
    """Return the shell commands that give a terminal the addresses of *servers*."""
    addresses = {
        "MODELSWAP_AMQP_URL": servers.amqp_url,
        "MODELSWAP_DATABASE_URL": servers.database_url,
        "MODELSWAP_MANAGEMENT_URL": servers.management_url,
    }
    return "".join(f"export {name}={shlex.quote(address)}\n" for name, address in addresses.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
