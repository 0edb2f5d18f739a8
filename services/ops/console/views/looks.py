"""
"New since you looked": which dead letters a person has seen, remembered in a cookie of the browser. Pure.

Reloading a page must not make what is new old. So a visit lasts as long as the page is looked at again and again, and
half an hour more: what came since the visit before is new during all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

COOKIE: Final = "modelswap_looked"
_VISIT: Final = timedelta(minutes=30)
_FORM: Final = re.compile(r"(\d{1,15})\.(\d{1,11})\.(\d{1,15})\.(\d{1,11})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen up to the visit before, and what is shown now."""

    #: The newest dead letter of the visit before, and the end of that visit.
    seen: int
    seen_at: datetime
    #: The newest dead letter that is shown now.
    shown: int
    shown_at: datetime

    @classmethod
    def first(cls, now: datetime) -> Self:
        """Return the look of a browser that never looked: nothing is new to it."""
        return cls(0, now, 0, now)

    @classmethod
    def read(cls, cookie: str) -> Self | None:
        """Parse a cookie; None if there is none, or it is none of ours."""
        match = _FORM.fullmatch(cookie)
        if match is None:
            return None
        seen, seen_at, shown, shown_at = map(int, match.groups())
        return cls(seen, datetime.fromtimestamp(seen_at, UTC), shown, datetime.fromtimestamp(shown_at, UTC))

    def cookie(self) -> str:
        return f"{self.seen}.{int(self.seen_at.timestamp())}.{self.shown}.{int(self.shown_at.timestamp())}"

    def again(self, now: datetime) -> Look:
        """Return the look of a page that is opened *now*, before it is known what it shows."""
        if now - self.shown_at < _VISIT:
            return Look(self.seen, self.seen_at, self.shown, now)
        return Look(self.shown, self.shown_at, self.shown, now)

    def showing(self, newest: int) -> Look:
        """Return the look of a page that shows dead letters up to *newest*."""
        return Look(self.seen, self.seen_at, max(self.shown, newest), self.shown_at)

    def all_seen(self, now: datetime) -> Look:
        """Return the look of a person who says that everything that is shown is seen."""
        return Look(self.shown, now, self.shown, now)
