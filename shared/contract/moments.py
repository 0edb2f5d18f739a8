"""Times from outside, and times as whole numbers, in cursors and event ids. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Earlier and later times have no date in some time zones. And the database client writes the first and the last time
#: that Python knows as infinite, and reads them without a time zone.
_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC)


def in_utc(moment: datetime) -> datetime | None:
    """Return *moment* in UTC, which is assumed if it has no time zone; None if it is the first or last day there is."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return aware.astimezone(UTC) if _FIRST <= aware < _LAST else None


def to_microseconds(moment: datetime) -> int:
    """Return the microseconds from the epoch to *moment*."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(number: int) -> datetime:
    """Return the time so many microseconds after the epoch."""
    return EPOCH + timedelta(microseconds=number)
