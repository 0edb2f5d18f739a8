"""The migrations of schema `notifier`. Edge."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="notifier", directory=Path(__file__).parent / "migrations")
#: The role with the service's few privileges.
ROLE: Final = "modelswap_notifier"
