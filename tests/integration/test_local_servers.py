"""Do private servers run on loopback only, survive what a test does to them, and leave nothing behind?"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
import asyncpg
import pytest

from deploy.local import LocalServersError, Servers, Unavailable, local_servers

ROOT = Path(__file__).parent.parent.parent

#: What /proc says of a process that ended between two looks: RabbitMQ runs short programs now and then.
ENDED_MEANWHILE = (FileNotFoundError, ProcessLookupError)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


pytestmark = pytest.mark.usefixtures("restartable_servers")  # where these cannot be had, no test here can run


async def publish(amqp_url: str, body: bytes) -> None:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel(publisher_confirms=True)
    await channel.queue_declare("kept", durable=True)
    await channel.basic_publish(body, routing_key="kept", properties=aiormq.spec.Basic.Properties(delivery_mode=2))
    await connection.close()


async def consume(amqp_url: str) -> bytes:
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    message = await channel.basic_get("kept", no_ack=True)
    await connection.close()
    return message.body


async def execute(database_url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def listening_addresses(pid: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal, on which the process accepts connections."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                sockets.add(match[1])
    listening = "0A"
    rows = [
        row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == listening and row[9] in sockets}


@linux_only
def test_both_listen_on_loopback_only(restartable_servers):
    loopback = "0100007F"

    assert listening_addresses(restartable_servers.rabbitmq.pid) == {loopback}
    assert listening_addresses(restartable_servers.postgres.pid) == {loopback}


async def test_rabbitmq_knows_no_guest(restartable_servers):
    address = urlsplit(restartable_servers.amqp_url)
    guest = address._replace(netloc=f"guest:guest@{address.hostname}:{address.port}").geturl()

    with pytest.raises((aiormq.exceptions.AuthenticationError, aiormq.exceptions.ProbableAuthenticationError)):
        await aiormq.connect(guest)


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_a_restarted_rabbitmq_keeps_its_messages_and_url(restartable_servers, way):
    servers = restartable_servers
    await publish(servers.amqp_url, b"before")
    url = servers.amqp_url

    getattr(servers.rabbitmq, way)()
    assert not servers.rabbitmq.running
    servers.rabbitmq.start()

    assert await consume(url) == b"before"


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_postgres_comes_back_with_its_rows_under_the_same_url(restartable_servers, way):
    servers = restartable_servers
    await execute(servers.database_url, f"CREATE TABLE {way} AS SELECT 'before' AS what")
    url = servers.database_url

    getattr(servers.postgres, way)()
    assert not servers.postgres.running
    servers.postgres.start()

    assert [row["what"] for row in await execute(url, f"SELECT what FROM {way}")] == ["before"]


async def test_a_kept_state_is_there_again_under_the_same_urls(walkable_folder, say):
    with local_servers(state=walkable_folder / "state", say=say) as first:
        await publish(first.amqp_url, b"kept")
        await execute(first.database_url, "CREATE TABLE kept AS SELECT 1 AS one")
        urls = (first.amqp_url, first.database_url)

    with local_servers(state=walkable_folder / "state", say=say) as second:
        message = await consume(second.amqp_url)
        rows = await execute(second.database_url, "SELECT one FROM kept")

    assert (second.amqp_url, second.database_url) == urls
    assert (message, [row["one"] for row in rows]) == (b"kept", [1])


def descendants(pid: int) -> dict[int, list[str]]:
    """Every process below *pid*, with its command line."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(*ENDED_MEANWHILE):
            number, rest = status.read_text().split(" (", 1)
            parents[int(number)] = int(rest.rpartition(") ")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    commands: dict[int, list[str]] = {}
    for each in found:
        with contextlib.suppress(*ENDED_MEANWHILE):
            commands[each] = Path(f"/proc/{each}/cmdline").read_text().split("\0")
    return commands


def opened(pids: Iterable[int]) -> dict[int, int]:
    """A file descriptor for each process that has not ended."""
    descriptors: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(*ENDED_MEANWHILE):
            descriptors[pid] = os.pidfd_open(pid)
    return descriptors


def wait_for_the_end_of(processes: dict[int, int]) -> None:
    """Wait until every process is gone; *processes* has their file descriptors."""
    ends = select.poll()
    for descriptor in processes.values():
        ends.register(descriptor, select.POLLIN)
    alive = set(processes.values())
    while alive:
        ended = ends.poll(60_000)
        assert ended, f"still alive: {[pid for pid, descriptor in processes.items() if descriptor in alive]}"
        for descriptor, _ in ended:
            ends.unregister(descriptor)
            alive.discard(descriptor)


@linux_only
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_nothing_is_left_of_a_launcher_that_is_killed(signal_name):
    launcher = subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "up"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with launcher, contextlib.ExitStack() as stack:
        stack.callback(launcher.kill)
        assert launcher.stdout is not None
        assert launcher.stdout.readline().startswith(b"export MODELSWAP_AMQP_URL=amqp://")
        family = descendants(launcher.pid)
        folders = [Path(command[-2]) for command in family.values() if "remove" in command]
        processes = opened(family)
        for descriptor in processes.values():
            stack.callback(os.close, descriptor)

        launcher.send_signal(signal.Signals[signal_name])
        wait_for_the_end_of(processes)

    commands = " ".join(shlex.join(command) for command in family.values())
    assert [name for name in ("beam.smp", "epmd", "postgres") if name not in commands] == []
    assert len(folders) == 1
    assert not folders[0].exists()


def test_a_server_that_cannot_be_had_says_what_to_type():
    with pytest.raises(Unavailable, match=r"RabbitMQ 2 cannot be had here .* Type `sudo apt-get install"):
        local_servers(rabbitmq="2").__enter__()
    with pytest.raises(Unavailable, match=r"Postgres 8 cannot be had here .* Type `sudo apt-get install"):
        local_servers(rabbitmq=None, postgres="8").__enter__()


def test_what_was_not_asked_for_is_not_there(restartable_servers):
    only_a_broker = Servers([restartable_servers.rabbitmq], None)

    with pytest.raises(LocalServersError, match="no Postgres was asked for"):
        _ = only_a_broker.database_url
