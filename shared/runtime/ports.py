"""
Free ports on loopback, reserved. Edge: binds sockets; standard library only.

No other run takes a reserved port, not even while no server listens there.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Final

#: Below every system's ephemeral ports: those are given to clients, and a client that keeps reconnecting to a dead
#: server there can connect to itself and hold the port.
_PORTS: Final = range(20_000, 32_000)


@contextlib.contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """*count* free ports, kept from other runs until the end."""
    with contextlib.ExitStack() as reservations:
        free = (port for port in random.sample(_PORTS, len(_PORTS)) if reserve(port, reservations))
        yield [next(free) for _ in range(count)]


def reserve(port: int, reservations: contextlib.ExitStack) -> bool:
    """
    Reserve *port*, if it is free, until the end of *reservations*.

    Its UDP twin is the reservation: it does not hinder a server, and the kernel frees it when we end.
    """
    twin = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        twin.bind(("127.0.0.1", port))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(("127.0.0.1", port))
    except OSError:
        twin.close()
        return False
    reservations.enter_context(twin)
    return True
