"""Three private RabbitMQ nodes that are one broker, as a tester kills and starts them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from deploy.local.errors import Say
from deploy.local.rabbitmq import RabbitMQ
from tests.servers import private_servers

_NODES: Final = 3


@contextlib.contextmanager
def running_cluster(say: Say, *, series: str = "auto") -> Iterator[Sequence[RabbitMQ]]:
    """Three nodes of one broker, all ready; where RabbitMQ can not be had, the test is skipped with the reason."""
    with private_servers(say, rabbitmq=series, postgres=None, nodes=_NODES) as servers:
        yield servers.nodes
