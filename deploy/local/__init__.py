"""
Where do a RabbitMQ and a Postgres come from on a machine that has neither? Edge: starts private ones on loopback.

*servers*   both, ready, and gone without a trace afterwards
*state*     the folder they live in: thrown away, or kept with its ports and password
*ports*     ports that nobody else has
*rabbitmq*, *postgres*   one server each: start, stop, kill, start again
*binaries*  which programs to run, and why those
*debian*    RabbitMQ from Debian's or Ubuntu's packages, unpacked without root
*cache*     where unpacked packages stay
*process*   a child that never outlives its launcher
*guard*     the process between the two that sees to it

Standard library only, so that it runs before anything is installed.
"""

from deploy.local.errors import LocalServersError, Unavailable
from deploy.local.servers import Servers, local_servers

__all__ = ["LocalServersError", "Servers", "Unavailable", "local_servers"]
