"""
Limits on the connections of one server, and which connection is closed when a limit is reached. Pure.

A client takes a file descriptor and memory from the moment it connects, before any token or signature is checked.
While the server waits for a client, the connection has a deadline; when a limit is reached, the connection with the
nearest deadline is closed. A well-behaved client sends its request at once, so its deadline is among the farthest.
(2026-11: without this, 1,000 silent connections made the receiver answer 503 to everything, `/livez` included.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from operator import attrgetter
from typing import Final, Protocol

Network = IPv4Network | IPv6Network

#: Loopback, private, link-local and shared (RFC 6598) addresses: a proxy in front of us has one of these.
PRIVATE_NETWORKS: Final[tuple[Network, ...]] = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
#: A client with one IPv6 address has all of these.
_IPV6_PREFIX: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on clients' connections. The defaults suit requests from other services."""

    #: Open connections. Those beyond `requests` are for clients that have sent no request yet.
    connections: int = 1_200
    #: Concurrent requests; more are answered 503, except health checks.
    requests: int = 1_000
    #: Open connections per client address outside the `trusted` networks.
    connections_per_address: int = 100
    trusted: tuple[Network, ...] = PRIVATE_NETWORKS
    #: From connecting, or from a request's first byte, to the end of its headers.
    header_seconds: float = 10.0
    #: From the end of the headers to the end of the body.
    body_seconds: float = 30.0
    #: Between two requests. Clients and proxies keep an idle connection for 5 to 60 s, and must close it first.
    idle_seconds: int = 75
    #: For a client to read a response that does not fit into the socket's buffer.
    write_seconds: float = 60.0
    #: Buffered bodies and unread responses of all connections together.
    held_bytes: int = 64 * 1024 * 1024


class Connection(Protocol):
    """One client's connection."""

    #: When to call `expire`, by the event loop's clock; infinite while the server does not wait for the client.
    deadline: float
    #: The size of this connection's request body and unsent response.
    held_bytes: int

    def drop(self) -> None:
        """Close at once, without a response."""

    def expire(self) -> None:
        """Handle the passed deadline."""


class Connections:
    """The open connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: How many were refused or closed, by kind, since they were last logged.
        self.refusals: Counter[str] = Counter()
        self._address_of: dict[Connection, str] = {}
        self._per_address: Counter[str] = Counter()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._address_of)

    @property
    def working(self) -> int:
        """The number of requests that are complete and not answered yet."""
        return sum(each.deadline == math.inf for each in self._address_of)

    def enter(self, connection: Connection, host: str | None) -> bool:
        """Register *connection* of *host*, dropping another one if necessary; return False if there is no room."""
        # Not limited: a Unix socket, and proxies.
        address = "" if host is None or is_trusted(host, self.limits.trusted) else counted_as(host)
        if address and self._per_address[address] >= self.limits.connections_per_address:
            return False
        if len(self) >= self.limits.connections and not self._drop_one_of(self._address_of):
            return False
        self._address_of[connection] = address
        self._per_address[address] += 1
        return True

    def leave(self, connection: Connection) -> None:
        """Forget *connection*, if it is known."""
        address = self._address_of.pop(connection, None)
        if address is None:
            return
        self.release(connection)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def hold(self, connection: Connection, size_bytes: int) -> bool:
        """Count *size_bytes* buffered for *connection*, dropping others if necessary; False if there is no room."""
        connection.held_bytes += size_bytes
        self._held_bytes += size_bytes
        while self._held_bytes > self.limits.held_bytes:
            others = (each for each in self._address_of if each.held_bytes and each is not connection)
            if not self._drop_one_of(others):
                return False
        return True

    def release(self, connection: Connection) -> None:
        """Reset the buffered size of *connection* to zero."""
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    def expire(self, now: float) -> None:
        """Call `expire` of every connection whose deadline has passed."""
        for connection in [each for each in self._address_of if each.deadline <= now]:
            connection.expire()

    def _drop_one_of(self, connections: Iterable[Connection]) -> bool:
        nearest = min(connections, key=attrgetter("deadline"), default=None)
        if nearest is None or nearest.deadline == math.inf:
            return False
        nearest.drop()
        self.leave(nearest)
        return True


@lru_cache(maxsize=4096)
def is_trusted(host: str, networks: tuple[Network, ...]) -> bool:
    """Return whether *host* is an address in one of *networks*."""
    address = _address(host)
    return address is not None and any(address in network for network in networks)


@lru_cache(maxsize=4096)
def counted_as(host: str) -> str:
    """Return what *host* is counted under: an IPv4 address, the network of an IPv6 one, or *host* if it is neither."""
    address = _address(host)
    if address is None:
        return host
    prefix = _IPV6_PREFIX if isinstance(address, IPv6Address) else address.max_prefixlen
    return str(ip_network((address, prefix), strict=False))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families shows an IPv4 client so.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
