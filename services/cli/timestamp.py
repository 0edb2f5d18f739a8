"""When is ``2h``? Pure: what people type for a time, as a time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from services.cli.problem import Problem

_AGO: Final = re.compile(r"(\d{1,6})(m|h|d|w)", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_timestamp(text: str, *, now: datetime) -> datetime:
    """
    The time that *text* says: so long ago (``2h``), or as it is written (``2026-11-24 12:00``, UTC if it does not say).

    Raises:
        Problem: if it says none.

    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise Problem(f"{text!r} is no time", then="give one like 30m, 2h, 7d or 2026-11-24T12:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
