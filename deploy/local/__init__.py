"""
Private RabbitMQ and Postgres servers on loopback, for machines without Docker. Edge.

*servers*   both, ready, and deleted without a trace afterwards
*state*     their folder: temporary, or kept with its ports and password
*rabbitmq*, *postgres*   one server each: start, stop, kill, start again
*plugins*   those that RabbitMQ starts with
*binaries*  which programs to run, and why those
*debian*    RabbitMQ from Debian's or Ubuntu's packages, unpacked without root
*cache*     where unpacked packages are kept
*process*   a server, which ends with its launcher

A wheel of its own, `modelswap-local` (extra "local"), so that the production image has none of it. Standard library and
four such files of `shared.runtime` (guard, guarded, ports, private_files) only, so that it runs before anything is
installed.
"""

from deploy.local.errors import LocalServersError, Unavailable
from deploy.local.servers import Servers, local_servers

__all__ = ["LocalServersError", "Servers", "Unavailable", "local_servers"]
