"""How does the database of `services.ops` come to be? Edge: the files in ``migrations/`` make its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="ops", directory=Path(__file__).parent / "migrations")
#: The role whose few rights the service acts with.
ROLE: Final = "modelswap_ops"
