"""Migrations are forward only, additive and quick: squawk reads each of them, so that the version before runs on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from services.notifier.migrate import MIGRATIONS as NOTIFIER
from services.ops.migrate import MIGRATIONS as OPS
from services.state.migrate import MIGRATIONS as STATE
from shared.runtime.migrations import Migration

#: The oldest Postgres that we support.
_POSTGRES: Final = "15"
_ALLOWED: Final = {
    "prefer-bigint-over-int": "counters and milliseconds; keys are bigint",
    "prefer-bigint-over-smallint": "per cent",
    "require-lock-timeout": "`modelswap db migrate` sets it for every session",
    "require-statement-timeout": "what takes long must not block, which other rules check; then it may take long",
    "ban-create-domain-with-constraint": "their values are stored in several tables and never change",
}

_FILES: Final = [
    pytest.param(file, id=f"{migrations.schema}/{file.name}")
    for migrations in (STATE, OPS, NOTIFIER)
    for file in migrations.files()
]


def complaints(sql: str) -> str:
    """What squawk says of *sql*; empty if nothing."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("squawk"),
            *("--reporter", "gcc", "--pg-version", _POSTGRES, "--stdin-filepath", "migration.sql"),
            *([] if sql.startswith("-- no-transaction") else ["--assume-in-transaction"]),
            *("--exclude", ",".join(_ALLOWED)),
        ],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("file", _FILES)
def test_squawk_passes(file: Migration):
    assert complaints(file.sql) == ""


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE state.users DROP COLUMN deleted_at;", "ban-drop-column"),
        ("DROP TABLE state.inbox;", "ban-drop-table"),
        ("ALTER TABLE state.users RENAME COLUMN deleted_at TO ended_at;", "renaming-column"),
        ("ALTER TABLE state.users ALTER COLUMN user_id TYPE varchar(200);", "changing-column-type"),
        ("ALTER TABLE state.users ADD COLUMN name text NOT NULL;", "adding-required-field"),
        ("CREATE INDEX users_by_name ON state.users (name);", "require-concurrent-index-creation"),
    ],
)
def test_what_the_version_before_cannot_bear_is_refused(sql: str, rule: str):
    assert f": {rule} " in complaints(sql)


def test_an_index_of_a_file_without_transaction_passes():
    assert complaints("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON state.users (name);") == ""
