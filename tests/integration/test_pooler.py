"""A pooler that does not keep sessions is refused with a sentence, before it mixes up what is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.process import Process, nobody, ourselves
from services.cli.local.doctor import examine
from services.state.store import ROLE
from shared.runtime.postgres import connect_pool
from shared.runtime.postgres_errors import UnusableAddress
from tests.stack import free_port

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
#: What we ask of a session at its start, and PgBouncer knows nothing of.
_IGNORED = "role,statement_timeout,lock_timeout,idle_in_transaction_session_timeout,jit,enable_seqscan"

SENTENCE = (
    "MODELSWAP_DATABASE_URL leads to a pooler that does not keep sessions, such as PgBouncer in transaction mode: "
    "give the address of Postgres itself"
)

pytestmark = pytest.mark.skipif(PGBOUNCER is None or sys.platform != "linux", reason="pgbouncer is not installed")


class PgBouncer(Process):
    port: int

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True


@contextlib.contextmanager
def pooled(folder: Path, database_url: str, *, ignored: str = "", connect_query: str = "") -> Iterator[str]:
    """The address of a PgBouncer in transaction mode before the database at *database_url*."""
    assert PGBOUNCER is not None
    parts, port = urlsplit(database_url), free_port()
    name = parts.path.removeprefix("/")
    password = f" password={parts.password}" if parts.password else ""
    query = f" connect_query='{connect_query}'" if connect_query else ""
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
{name} = host={parts.hostname} port={parts.port} user={parts.username}{password}{query}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
# After a login that broke, by default the next one waits 15 s, which is longer than we do.
server_login_retry = 1
{f"ignore_startup_parameters = {ignored}" if ignored else ""}
"""
    )
    pgbouncer = PgBouncer(
        "PgBouncer",
        [PGBOUNCER, str(folder / "pgbouncer.ini")],
        os.environ,
        log=folder / "pgbouncer.log",
        end_signal=signal.SIGKILL,
        owner=nobody() if os.geteuid() == 0 else ourselves(),
    )
    pgbouncer.port = port
    try:
        pgbouncer.start()
        yield f"postgresql://modelswap@127.0.0.1:{port}/{name}"
    finally:
        pgbouncer.end()


@pytest.mark.parametrize(
    ("ignored", "connect_query", "seen"),
    [
        pytest.param("", "", "unsupported startup parameter", id="strict"),
        pytest.param(_IGNORED, "", "instead of what was asked for", id="settings-ignored"),
        pytest.param(
            _IGNORED,
            f"SET role {ROLE}; SET lock_timeout = 3000",
            "two connections are one session|prepared statement|protocol",
            id="settings-made-to-fit",
        ),
    ],
)
async def test_a_transaction_pooler_is_refused_with_a_sentence(
    walkable_folder: Path, database_url: str, ignored: str, connect_query: str, seen: str
):
    with pooled(walkable_folder, database_url, ignored=ignored, connect_query=connect_query) as url:
        with pytest.raises(UnusableAddress, match=seen) as refused:
            await connect_pool(url, application_name="test", role=ROLE)
        (database,) = [
            finding for finding in await examine({"MODELSWAP_DATABASE_URL": url}) if finding.check == "database"
        ]

    assert str(refused.value).startswith(SENTENCE)
    assert (database.status, database.detail[: len(SENTENCE)]) == ("wrong", SENTENCE)
