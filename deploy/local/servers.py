"""A private RabbitMQ and a private Postgres for the length of a block. Edge."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.binaries import get_postgres, get_rabbitmq
from deploy.local.errors import LocalServersError, Say
from deploy.local.postgres import Postgres
from deploy.local.process import Process
from deploy.local.rabbitmq import PortMapper, RabbitMQ, launched_nodes
from deploy.local.state import kept_state, temporary_state


@dataclass(frozen=True)
class Servers:
    """Running servers, ready for connections."""

    nodes: Sequence[RabbitMQ]
    _postgres: Postgres | None
    _port_mapper: PortMapper | None = None

    @property
    def all(self) -> Sequence[Process]:
        """All that must keep running."""
        return [each for each in (self._port_mapper, *self.nodes, self._postgres) if each is not None]

    @property
    def rabbitmq(self) -> RabbitMQ:
        """The first node, which mostly is the only one."""
        if not self.nodes:
            raise LocalServersError("no RabbitMQ was asked for")
        return self.nodes[0]

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            raise LocalServersError("no Postgres was asked for")
        return self._postgres

    @property
    def amqp_url(self) -> str:
        """The address of each node, separated by commas."""
        return ",".join([self.rabbitmq.url, *(node.url for node in self.nodes[1:])])

    @property
    def management_url(self) -> str:
        """The management API of each node, separated by commas."""
        return ",".join([self.rabbitmq.management_url, *(node.management_url for node in self.nodes[1:])])

    @property
    def database_url(self) -> str:
        return self.postgres.url


@contextlib.contextmanager
def local_servers(
    *,
    rabbitmq: str | None = "auto",
    postgres: str | None = "auto",
    nodes: int = 1,
    state: Path | None = None,
    durable: bool | None = None,
    postgres_options: Mapping[str, str] | None = None,
    say: Say = print,
) -> Iterator[Servers]:
    """
    Run a private RabbitMQ and a private Postgres on loopback for the length of the block.

    *rabbitmq* and *postgres* name a series ("3.10", "4"; "15"), "auto" for any, or None for no such server.
    With several *nodes*, RabbitMQ is a cluster.
    *state* is a folder that keeps data, ports and password for the next run; without it everything is deleted
    afterwards, even after ``kill -9``. *durable* (by default when there is a *state*) makes Postgres wait for the disk.

    Raises: Unavailable when a server cannot be had on this machine, LocalServersError when it does not start.
    """
    began = time.monotonic()
    rabbitmq_binaries = get_rabbitmq(rabbitmq, say) if rabbitmq else None
    postgres_binaries = get_postgres(postgres) if postgres else None
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(kept_state(state, say) if state else temporary_state())
        brokers: Sequence[RabbitMQ] = ()
        mapper = None
        if rabbitmq_binaries:
            mapper = PortMapper(rabbitmq_binaries, place)
            stack.callback(mapper.end)
            mapper.start()
            brokers = stack.enter_context(launched_nodes(rabbitmq_binaries, place, nodes, say))
        database = None
        if postgres_binaries:
            durable = place.kept if durable is None else durable
            database = Postgres(postgres_binaries, place, durable=durable, options=postgres_options or {})
            stack.callback(database.end)
            database.launch()
        wanted: list[RabbitMQ | Postgres] = [*brokers, *([database] if database else [])]
        for server in wanted:
            server.wait_until_ready()
        told = [f"{each.title} {each.binaries.version} ({each.binaries.origin})" for each in wanted]
        names = " and ".join(dict.fromkeys(told))
        names = f"{nodes} nodes of {names}" if len(brokers) > 1 else names
        say(f"{names}: private, on loopback only, ready after {time.monotonic() - began:.1f} s")
        yield Servers(brokers, database, mapper)
