"""Two Postgres servers, one of which streams to the other: a failover, and the way back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import asyncpg
import pytest

from deploy.local.binaries import get_postgres
from deploy.local.errors import Unavailable
from deploy.local.postgres import Postgres
from deploy.local.state import temporary_state
from tests.databases import make_logins_cheap
from tests.proc import look_into

_OPTIONS: Final = {"wal_keep_size": "256MB"}


class Pair:
    """A primary, and a standby that has every commit before the primary confirms it."""

    def __init__(self, primary: Postgres, standby: Postgres) -> None:
        self.primary = primary
        self.standby = standby

    @property
    def url(self) -> str:
        """The address of both, which stays the same after a failover."""
        first, second = sorted((self.primary.url, self.standby.url))
        servers = f"{first.rpartition('/')[0]},{second.rpartition('@')[2]}"
        return f"{servers}?target_session_attrs=read-write"

    async def begin(self) -> None:
        """Let the standby follow, and the primary wait for it."""
        await make_logins_cheap(self.primary.url)
        await self.rejoin()

    async def fail_over(self) -> None:
        """Crash the primary, and promote the standby, which is then alone."""
        await asyncio.to_thread(self.primary.kill)
        await self.promote()

    async def promote(self) -> None:
        """Promote the standby, also where the primary still runs."""
        self.primary, self.standby = self.standby, self.primary
        await asyncio.to_thread(_promote, self.primary)
        await _set_synchronous(self.primary, "")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the primary with SIGSTOP. They end before they go on, if the standby was promoted."""
        struck = self.primary
        processes = [struck.pid]
        os.kill(struck.pid, signal.SIGSTOP)  # so it starts no more of them
        processes += map(int, look_into(f"/proc/{struck.pid}/task/{struck.pid}/children").split())
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.primary is not struck:
                _signal(processes, signal.SIGQUIT)
            _signal(processes, signal.SIGCONT)

    async def rejoin(self) -> None:
        """Let the server that is not the primary follow it."""
        await asyncio.to_thread(_follow, self.standby, self.primary)
        await _set_synchronous(self.primary, "*")


def _follow(standby: Postgres, primary: Postgres) -> None:
    """Start *standby* as a streaming standby of *primary*, with a copy of its data; what it had is deleted."""
    standby.end()
    programs = standby._programs()
    copy = [str(programs / "pg_basebackup"), f"--pgdata={standby._make_data()}", f"--dbname={primary.url}"]
    standby._run([*copy, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"], "copy its primary")
    standby.start()


def _promote(standby: Postgres) -> None:
    """Make *standby* take writes."""
    standby._run(
        [str(standby._programs() / "pg_ctl"), f"--pgdata={standby._folder / 'data'}", "promote"], "promote itself"
    )


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


async def _set_synchronous(server: Postgres, names: str) -> None:
    await _tell(server, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()")


async def _tell(server: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def two_postgres() -> Iterator[Pair]:
    """A running primary, and a standby that is not started yet: `Pair.begin` does."""
    try:
        binaries = get_postgres("auto")
    except Unavailable as error:
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(temporary_state()) for _ in range(2))
        states = (first, replace(second, password=first.password))
        servers = [Postgres(binaries, state, durable=False, options=_OPTIONS) for state in states]
        for server in servers:
            stack.callback(server.end)
        servers[0].start()
        yield Pair(*servers)
