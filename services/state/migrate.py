"""How does the database of `services.state` come to be? Edge: the files in ``migrations/`` make its schema."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from shared.runtime.migrations import Migrations

MIGRATIONS: Final = Migrations(schema="state", directory=Path(__file__).parent / "migrations")


async def migrate(database_url: str) -> list[str]:
    """Bring the database up to date; return the names of the migrations that were applied."""
    return await MIGRATIONS.apply(database_url)


async def status(database_url: str) -> list[tuple[str, datetime | None]]:
    """Name every migration with the time when it was applied, or None; change nothing."""
    return await MIGRATIONS.status(database_url)
