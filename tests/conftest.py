"""What every test may ask for. Nothing starts before a test asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from deploy.local import Servers
from shared.runtime.guarded import removed_afterwards
from tests.databases import Copies, empty_database, new_database
from tests.servers import Urls, private_servers
from tests.servers import servers as provided_servers

#: The broker's runtime must hold on the oldest and the newest that people run.
RABBITMQ_SERIES = ("3.10", "4")

# Tests look the same whatever the terminal is, and everything that they ask is on this machine, which no proxy reaches.
for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))

# An example may take as long as it likes: how long it took says more of what else the machine does.
settings.register_profile("modelswap", deadline=None)
settings.load_profile("modelswap")

# By default an error is logged with a coloured picture of every local variable of every frame: half a second of CPU,
# and on a busy machine as many seconds as some items are set aside for.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seeds", default="", help="the seeds of tests/end_to_end/test_chaos.py: 7,8")
    group.addoption("--chaos-trainings", type=int, default=0, help="how many trainings each of them has")
    group.addoption("--chaos-rabbitmq", default="", help="on which RabbitMQ: 3.10,4")
    group.addoption(
        "--catching-up-swaps", type=int, default=120, help="how many swaps tests/end_to_end/test_catching_up.py has"
    )


# The garbage collector finds nothing in what is imported and collected, and goes through all of it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = item.fixturenames if isinstance(item, pytest.Function) else ()
        if "restartable_servers" in fixtures:
            item.add_marker(pytest.mark.own_servers)
        if "broker_urls" in fixtures:
            item.add_marker(pytest.mark.every_rabbitmq)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    # One that waits for ever fails, and the others go on, before `faulthandler_timeout` ends all of them: its fixtures,
    # which take minutes where servers are fetched, count there too.
    seconds = 0.75 * float(item.config.getini("faulthandler_timeout"))
    # Hypothesis wraps an async test in a function that is none.
    examples = getattr(getattr(item, "obj", None), "hypothesis", None)
    owner, name = (examples, "inner_test") if examples else (item, "obj")
    with pytest.MonkeyPatch.context() as patch:
        if seconds and inspect.iscoroutinefunction(test := getattr(owner, name, None)):
            patch.setattr(owner, name, _limited(test, seconds))
        return (yield)


def _limited(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    """End *test* after *seconds*: all its examples together, also those by which a failed one is reduced."""
    end: float | None = None

    @functools.wraps(test)
    async def limited(*arguments: object, **fixtures: object) -> None:
        nonlocal end
        end = end or asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(end):
            await test(*arguments, **fixtures)

    return limited


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tell whoever waits, past pytest's capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.get_terminal_writer()

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            terminal.line()
            terminal.line(line)

    return say


@pytest.fixture(scope="session")
def servers(say: Callable[[str], None]) -> Iterator[Urls]:
    """A RabbitMQ and a Postgres for all tests; one line says where they are from."""
    with provided_servers(say) as urls:
        yield urls


@pytest.fixture(scope="session")
def amqp_url(servers: Urls) -> str:
    return servers.amqp_url


@pytest.fixture(scope="session", params=[pytest.param(series, id=f"rabbitmq-{series}") for series in RABBITMQ_SERIES])
def broker_urls(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Iterator[Urls]:
    """A RabbitMQ of each series that can be had on this machine."""
    if request.param == RABBITMQ_SERIES[-1]:
        shared: Urls = request.getfixturevalue("servers")
        # One that was given, or is Docker's, is taken for new.
        if shared.private_rabbitmq is None or shared.private_rabbitmq.startswith(f"{request.param}."):
            yield shared
            return
    with private_servers(say, rabbitmq=request.param, postgres=None) as private:
        yield Urls(private.amqp_url, "", private.rabbitmq.binaries.version, private.management_url)


@pytest.fixture(scope="session")
def broker_url(broker_urls: Urls) -> str:
    return broker_urls.amqp_url


@pytest.fixture(scope="session")
async def migrated_database(servers: Urls) -> AsyncIterator[str]:
    """The database that others are copies of; nobody connects to it."""
    async with new_database(servers.database_url) as url:
        yield url


@pytest.fixture(scope="session")
async def _copies(migrated_database: str) -> AsyncIterator[Copies]:
    async with Copies(migrated_database) as copies:
        yield copies


@pytest.fixture
async def database_url(_copies: Copies) -> AsyncIterator[str]:
    """A database of one's own, with the tables of the services."""
    async with _copies.lent() as url:
        yield url


@pytest.fixture
async def empty_database_url(servers: Urls) -> AsyncIterator[str]:
    """A database of one's own, with nothing in it."""
    async with empty_database(servers.database_url) as url:
        yield url


@pytest.fixture(scope="session")
def _private_servers(say: Callable[[str], None]) -> Iterator[Servers]:
    with private_servers(say) as private:
        yield private


@pytest.fixture
def restartable_servers(_private_servers: Servers) -> Iterator[Servers]:
    """Private servers that a test may kill and start again; whatever it leaves dead is started for the next."""
    yield _private_servers
    for server in (_private_servers.rabbitmq, _private_servers.postgres):
        if not server.running:
            server.start()


@pytest.fixture
def walkable_folder() -> Iterator[Path]:
    """For a server that runs as another user when we are root: pytest's own folders are closed to it."""
    with removed_afterwards(Path(tempfile.mkdtemp())) as folder:
        folder.chmod(0o711)
        yield folder
