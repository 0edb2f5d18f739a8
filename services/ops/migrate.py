"""The migrations of schema `ops`. Edge."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="ops", directory=Path(__file__).parent / "migrations")
#: The role with the service's few privileges.
ROLE: Final = "modelswap_ops"
