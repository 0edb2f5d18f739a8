"""Times as whole numbers, in cursors and event ids. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_microseconds(moment: datetime) -> int:
    """Return the microseconds from the epoch to *moment*."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(number: int) -> datetime:
    """Return the time so many microseconds after the epoch."""
    return EPOCH + timedelta(microseconds=number)
