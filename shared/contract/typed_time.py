"""A time as people type it. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_AGO: Final = re.compile(r"(\d{1,6})\s*(min|m|h|d|w)", re.ASCII)
_UNITS: Final = {"min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def typed_time(text: str, now: datetime) -> datetime | None:
    """
    Return the time in *text*; None: it is none.

    An age (``2h``), or a day, or a day and a time (``2026-11-24 12:00``): in UTC if it has no offset.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
