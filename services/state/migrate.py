"""How does the database of `services.state` come to be? Edge: the files in ``migrations/`` make its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="state", directory=Path(__file__).parent / "migrations")
