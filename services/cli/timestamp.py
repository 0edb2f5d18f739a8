"""Timestamps as typed: ``2h``, or ISO 8601. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from services.cli.problem import Problem

_AGO: Final = re.compile(r"(\d{1,6})(m|h|d|w)", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_timestamp(text: str, *, now: datetime) -> datetime:
    """Return the time in *text*: an age (``2h``) or a timestamp (``2026-11-24 12:00``, UTC if it has no offset)."""
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        timestamp = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise Problem(f"{text!r} is not a time", then="give one like 30m, 2h, 7d or 2026-11-24T12:00Z") from None
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
