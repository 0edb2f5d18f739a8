"""`modelswap up --embedded` runs everything, keeps what it is told to keep, and never runs half."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from deploy.local.ports import free_ports
from tests.proc import look_into
from tests.stack import ROOT

SERVICES = ("receiver", "extractor", "state", "ops", "simulator")


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder that the servers' own user can walk to, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="modelswap-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """One for each process, until the end: the servers that `up` starts before them take others."""
    with free_ports(len(SERVICES)) as free:
        yield {f"MODELSWAP_{name.upper()}_PORT": str(port) for name, port in zip(SERVICES, free, strict=True)}


@asynccontextmanager
async def up(state: Path, ports: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Everything, as soon as it is ready, and what it said until then."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("MODELSWAP_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "up", "--embedded", "--state", str(state)),
        cwd=ROOT,
        env={**own, **ports},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1024 * 1024,
        # As a shell starts what a script puts into the background.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(90):
            while "Ctrl-C stops everything." not in said:
                line = await process.stdout.readline()
                assert line, "\n".join(said)
                said.append(line.decode().rstrip())
        yield process, said
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def exported(state: Path) -> dict[str, str]:
    """What another terminal would know."""
    lines = (state / "env").read_text().splitlines()
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def found_in_another_terminal(state: Path) -> str:
    """Where the command is that we tell people to type there."""
    typed = f"source {shlex.quote(str(state / 'env'))} && command -v modelswap"
    told = subprocess.run(["bash", "-c", typed], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
    return told.stdout.decode().strip()


def child_of(pid: int, command: str) -> int:
    children = look_into(f"/proc/{pid}/task/{pid}/children").split()
    (found,) = [int(child) for child in children if command in look_into(f"/proc/{child}/cmdline")]
    return found


async def logged_in(database_url: str) -> set[tuple[str, bool]]:
    """Everyone with a connection to the database, and whether that is a superuser."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetch(
            """
            SELECT usename, usesuper FROM pg_stat_activity JOIN pg_user USING (usename)
            WHERE datname = 'modelswap'
            """
        )
    finally:
        await connection.close()
    return {(row["usename"], row["usesuper"]) for row in found}


async def test_a_state_whose_services_were_superusers_is_refused(state):
    (state / "secrets.json").write_text('{"API_TOKENS": "made-by-an-earlier-version"}')

    told = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.cli", "up", "--embedded", "--state", str(state)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 1
    assert f"{state} was made by an earlier modelswap, whose services were superusers" in told.stderr
    assert f"Next: rm -r {state}" in told.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
async def test_it_ends_well_when_told_to_and_badly_when_a_process_is_lost(state, ports):
    async with up(state, ports) as (process, said):
        first = exported(state)
        assert await logged_in(first["MODELSWAP_DATABASE_URL"]) == {
            ("modelswap_owner", False),
            ("modelswap_state_login", False),
            ("modelswap_ops_login", False),
        }
        assert found_in_another_terminal(state) == str(Path(sys.executable).parent / "modelswap")
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert f"  source {state / 'env'}" in said
    assert {line.split(" │ ")[0].strip() for line in said if " │ " in line} == set(SERVICES)

    async with up(state, ports) as (process, _):
        second = exported(state)
        os.kill(child_of(process.pid, "services.extractor"), signal.SIGKILL)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "modelswap: extractor ended with exit code -9" in out.decode()

    kept = ("MODELSWAP_API_TOKENS", "MODELSWAP_REF_SECRETS", "MODELSWAP_AMQP_URL", "MODELSWAP_DATABASE_URL")
    assert [first[name] for name in kept] == [second[name] for name in kept]
    assert first["MODELSWAP_SIMULATOR_SEED"] != second["MODELSWAP_SIMULATOR_SEED"]
