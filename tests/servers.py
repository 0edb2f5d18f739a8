"""
Where do the servers of the tests come from?

    given     MODELSWAP_TEST_AMQP_URL and MODELSWAP_TEST_DATABASE_URL
    Docker    through testcontainers, where an engine answers and has the images
    private   started by `deploy.local`, everywhere else

Tests that kill servers always get private ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from deploy.local import local_servers

GIVEN_AMQP: Final = "MODELSWAP_TEST_AMQP_URL"
GIVEN_DATABASE: Final = "MODELSWAP_TEST_DATABASE_URL"

_RABBITMQ_IMAGE: Final = "rabbitmq:4-management"
_POSTGRES_IMAGE: Final = "postgres:17"
_USER: Final = "modelswap"

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Urls:
    """A broker and a database server that run."""

    amqp_url: str
    database_url: str


@contextlib.contextmanager
def servers(say: Say) -> Iterator[Urls]:
    """The first of the three that can be had; says which."""
    given = [os.environ.get(name) for name in (GIVEN_AMQP, GIVEN_DATABASE)]
    with contextlib.ExitStack() as stack:
        if given[0] and given[1]:
            say(f"servers: given by {GIVEN_AMQP} and {GIVEN_DATABASE}")
            urls = Urls(given[0], given[1])
        elif reason := docker_missing():
            say(f"servers: private, as {reason}")
            private = stack.enter_context(local_servers(say=say))
            urls = Urls(private.amqp_url, private.database_url)
        else:
            say(f"servers: {_RABBITMQ_IMAGE} and {_POSTGRES_IMAGE} in Docker, through testcontainers")
            urls = stack.enter_context(_containers())
        yield urls


def docker_missing() -> str | None:
    """Why Docker can not be used, or None."""
    import docker  # noqa: PLC0415 (not needed where URLs are given)
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        client = docker.from_env()
        for image in (_RABBITMQ_IMAGE, _POSTGRES_IMAGE):
            if not client.images.list(name=image):
                client.images.pull(image)
    except DockerException as error:
        return f"Docker does not serve ({str(error).splitlines()[0][:120]})"
    return None


@contextlib.contextmanager
def _containers() -> Iterator[Urls]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 (only where Docker is)
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

    # Not secrets: these servers live as long as the tests, on loopback.
    rabbitmq = (
        DockerContainer(_RABBITMQ_IMAGE)
        .with_env("RABBITMQ_DEFAULT_USER", _USER)
        .with_env("RABBITMQ_DEFAULT_PASS", _USER)
        .with_exposed_ports(5672)
        .waiting_for(LogMessageWaitStrategy("Server startup complete"))
    )
    postgres = (
        DockerContainer(_POSTGRES_IMAGE)
        .with_env("POSTGRES_USER", _USER)
        .with_env("POSTGRES_PASSWORD", _USER)
        .with_command("postgres -c max_connections=200")
        .with_exposed_ports(5432)
        # Once for the server that prepares the database, once for the one that stays.
        .waiting_for(LogMessageWaitStrategy("database system is ready to accept connections", times=2))
    )
    with rabbitmq, postgres:
        amqp = f"{rabbitmq.get_container_host_ip()}:{rabbitmq.get_exposed_port(5672)}"
        database = f"{postgres.get_container_host_ip()}:{postgres.get_exposed_port(5432)}"
        yield Urls(
            f"amqp://{_USER}:{_USER}@{amqp}/",
            f"postgresql://{_USER}:{_USER}@{database}/{_USER}",
        )
