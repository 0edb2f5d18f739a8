"""
How far the notifier has read the events log, and whether the log still continues from there. Pure.

Reading begins with the last event that was handled, so that it is seen whether this is still the same log. One that was
deleted and made anew counts offsets from 0 again, and RabbitMQ sends nothing of it before the requested offset, even if
that is beyond its end (3.10.8 and 4.3.6, 2026-11). If the last event was deleted, being too old, RabbitMQ begins with
the oldest that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

#: RabbitMQ's clock, the publisher's and Postgres' may differ.
_MARGIN: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Position:
    """An event in the log."""

    #: When it was published.
    time: datetime
    #: None: there was no event yet.
    offset: int | None = None
    #: Hash of the event.
    fingerprint: str = ""

    @property
    def since(self) -> datetime:
        """From when on to read, if the log may be another one. Some events come again, and are known by their ids."""
        return self.time - _MARGIN

    def missed_before(self, found: Position) -> int | None:
        """
        Return how many events are missing between this one and *found*, the first that was sent on reading from here.

        None if *found* belongs to another log.
        """
        if self.offset is None or found.offset is None:
            return None
        if found.offset > self.offset:
            return found.offset - self.offset - 1
        return 0 if (found.offset, found.fingerprint) == (self.offset, self.fingerprint) else None
