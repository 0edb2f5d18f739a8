"""What time is it? The one edge that asks; pure code is handed the answer."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 (this is the edge that the ban points to)
