"""
Where do the servers of the tests come from?

    given     MODELSWAP_TEST_AMQP_URL and MODELSWAP_TEST_DATABASE_URL
    Docker    through testcontainers, where an engine answers and has the images
    private   started by `deploy.local`, everywhere else

Tests that kill servers always get private ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from deploy.local import Servers, Unavailable, local_servers
from tests.databases import make_logins_cheap

if TYPE_CHECKING:
    from docker import DockerClient
    from testcontainers.core.container import DockerContainer

GIVEN_AMQP: Final = "MODELSWAP_TEST_AMQP_URL"
GIVEN_DATABASE: Final = "MODELSWAP_TEST_DATABASE_URL"

_RABBITMQ_IMAGE: Final = "rabbitmq:4-management"
_POSTGRES_IMAGE: Final = "postgres:17"
_USER: Final = "modelswap"

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Urls:
    """
    A broker and a database server that run.

    *private_rabbitmq* is the broker's version, if it is a private one; then there is its management API, too.
    """

    amqp_url: str
    database_url: str
    private_rabbitmq: str | None = None
    management_url: str = ""


@contextlib.contextmanager
def servers(say: Say) -> Iterator[Urls]:
    """The first of the three that can be had; says which."""
    with contextlib.ExitStack() as stack:
        yield _given(say) or _in_docker(stack, say) or _private(stack, say)


@contextlib.contextmanager
def private_servers(say: Say, **wanted: Any) -> Iterator[Servers]:
    """Private ones, as `local_servers` makes them; where they cannot be had, the test is skipped with the reason."""
    with contextlib.ExitStack() as stack:
        try:
            private = stack.enter_context(local_servers(say=say, **wanted))
        except Unavailable as error:
            pytest.skip(str(error))
        if wanted.get("postgres", "auto") is not None:
            _make_logins_cheap(private.database_url)
        yield private


def _given(say: Say) -> Urls | None:
    urls = [os.environ.get(name) for name in (GIVEN_AMQP, GIVEN_DATABASE)]
    match urls:
        case [str(amqp_url), str(database_url)]:
            say(f"servers: given by {GIVEN_AMQP} and {GIVEN_DATABASE}")
            return Urls(amqp_url, database_url)
        case [None, None]:
            return None
    raise ValueError(f"set both {GIVEN_AMQP} and {GIVEN_DATABASE}, or neither")


def _private(stack: contextlib.ExitStack, say: Say) -> Urls:
    private = stack.enter_context(local_servers(say=lambda line: say(f"servers: {line}")))
    _make_logins_cheap(private.database_url)
    return Urls(private.amqp_url, private.database_url, private.rabbitmq.binaries.version, private.management_url)


def _make_logins_cheap(database_url: str) -> None:
    # In a thread: the tests have an event loop in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make_logins_cheap(database_url)).result()


def _in_docker(stack: contextlib.ExitStack, say: Say) -> Urls | None:
    from docker.errors import DockerException  # noqa: PLC0415 (not needed where URLs are given)

    engine = _find_engine()
    if engine is None:
        say("servers: no Docker engine answers, so private ones")
        return None
    try:
        with contextlib.closing(engine):
            for image in (_RABBITMQ_IMAGE, _POSTGRES_IMAGE):
                if not engine.images.list(name=image):
                    engine.images.pull(image)
        urls = stack.enter_context(_containers())
    # The last one: a container has ended where it was to become ready.
    except (DockerException, TimeoutError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:160]
        say(f"servers: a Docker engine answers, but does not serve ({reason}), so private ones")
        return None
    say(f"servers: {_RABBITMQ_IMAGE} and {_POSTGRES_IMAGE} in Docker")
    return urls


def _find_engine() -> DockerClient | None:
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    engine = None
    with warnings.catch_warnings():
        # Where no engine answers, the library leaves the socket it tried to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        with contextlib.suppress(DockerException):
            engine = docker.from_env()
        gc.collect()
    return engine


@contextlib.contextmanager
def _containers() -> Iterator[Urls]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 (only where Docker is)
    from testcontainers.core.wait_strategies import ExecWaitStrategy, LogMessageWaitStrategy  # noqa: PLC0415

    # Not secrets: these servers live as long as the tests, on loopback.
    rabbitmq = (
        DockerContainer(_RABBITMQ_IMAGE)
        .with_env("RABBITMQ_DEFAULT_USER", _USER)
        .with_env("RABBITMQ_DEFAULT_PASS", _USER)
        .waiting_for(LogMessageWaitStrategy("Server startup complete"))
    )
    postgres = (
        DockerContainer(_POSTGRES_IMAGE)
        .with_env("POSTGRES_USER", _USER)
        .with_env("POSTGRES_PASSWORD", _USER)
        .with_command("postgres -c max_connections=200 -c fsync=off")
        # Over TCP: the server that prepares the database calls itself ready too, and answers on its socket only.
        .waiting_for(ExecWaitStrategy(["pg_isready", "--host=127.0.0.1", f"--username={_USER}"]))
    )
    with _reachable(rabbitmq, 5672) as amqp, _reachable(postgres, 5432) as database:
        yield Urls(f"amqp://{_USER}:{_USER}@{amqp}/", f"postgresql://{_USER}:{_USER}@{database}/{_USER}")


@contextlib.contextmanager
def _reachable(container: DockerContainer, port: int) -> Iterator[str]:
    """Run *container*; yields the address of its *port*, which is on loopback if the engine is on this machine."""
    from testcontainers.core.config import ConnectionMode  # noqa: PLC0415

    client = container.get_docker_client()
    here = client.get_connection_mode() is ConnectionMode.docker_host and client.host() == "localhost"
    cast("dict[str, Any]", container.ports)[f"{port}/tcp"] = ("127.0.0.1", None) if here else None
    with container:
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
