"""The migrations of schema `state`. Edge."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="state", directory=Path(__file__).parent / "migrations")
