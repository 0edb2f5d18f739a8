"""A private RabbitMQ and a private Postgres for the length of a block. Edge."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.binaries import get_postgres, get_rabbitmq
from deploy.local.errors import LocalServersError, Say
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.state import kept_state, temporary_state


@dataclass(frozen=True)
class Servers:
    """Running servers, ready for connections."""

    _rabbitmq: RabbitMQ | None
    _postgres: Postgres | None

    @property
    def rabbitmq(self) -> RabbitMQ:
        if self._rabbitmq is None:
            raise LocalServersError("no RabbitMQ was asked for")
        return self._rabbitmq

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            raise LocalServersError("no Postgres was asked for")
        return self._postgres

    @property
    def amqp_url(self) -> str:
        return self.rabbitmq.url

    @property
    def management_url(self) -> str:
        return self.rabbitmq.management_url

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def rabbitmq_pid(self) -> int:
        return self.rabbitmq.pid

    @property
    def postgres_pid(self) -> int:
        return self.postgres.pid


@contextlib.contextmanager
def local_servers(
    *,
    rabbitmq: str | None = "auto",
    postgres: str | None = "auto",
    state: Path | None = None,
    durable: bool | None = None,
    postgres_options: Mapping[str, str] | None = None,
    say: Say = print,
) -> Iterator[Servers]:
    """
    Run a private RabbitMQ and a private Postgres on loopback for the length of the block.

    *rabbitmq* and *postgres* name a series ("3.10", "4"; "15"), "auto" for any, or None for no such server.
    *state* is a folder that keeps data, ports and password for the next run; without it everything is deleted
    afterwards, even after ``kill -9``. *durable* (by default when there is a *state*) makes Postgres wait for the disk.

    Raises: Unavailable when a server cannot be had on this machine, LocalServersError when it does not start.
    """
    began = time.monotonic()
    rabbitmq_binaries = get_rabbitmq(rabbitmq, say) if rabbitmq else None
    postgres_binaries = get_postgres(postgres) if postgres else None
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(kept_state(state, say) if state else temporary_state())
        broker = RabbitMQ(rabbitmq_binaries, place) if rabbitmq_binaries else None
        database = (
            Postgres(
                postgres_binaries,
                place,
                durable=place.kept if durable is None else durable,
                options=postgres_options or {},
            )
            if postgres_binaries
            else None
        )
        wanted = [server for server in (broker, database) if server]
        for server in wanted:
            stack.callback(server.end)
            server.launch()
        for server in wanted:
            server.wait_until_ready()
        names = " and ".join(_described(server) for server in wanted)
        say(f"{names}: private, on loopback only, ready after {time.monotonic() - began:.1f} s")
        yield Servers(broker, database)


def _described(server: RabbitMQ | Postgres) -> str:
    return f"{type(server).__name__} {server.binaries.version} ({server.binaries.origin})"
