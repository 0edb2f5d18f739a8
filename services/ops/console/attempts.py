"""
Slows attempts to sign in, per client address. Pure.

A long random token is not found by trying; a short one, of a test installation, should not be found either.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from shared.runtime.connections import counted_as

#: So many mistakes are free: people paste the wrong line.
FREE: Final = 3
LONGEST: Final = timedelta(minutes=5)
#: After this time without a mistake, an address begins anew.
_FORGOTTEN_AFTER: Final = timedelta(minutes=15)
_NONE: Final = timedelta()


class _Record(NamedTuple):
    failures: int
    last_at: datetime


class Attempts:
    """Failed attempts by address. At most *limit* addresses are remembered; the oldest are forgotten first."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def wait(self, address: str, now: datetime) -> timedelta:
        """Return how long *address* must wait until its next attempt; zero if it may try now."""
        record = self._records.get(counted_as(address))
        if record is None or record.failures < FREE or now - record.last_at > _FORGOTTEN_AFTER:
            return _NONE
        pause = min(timedelta(seconds=2 ** min(record.failures - FREE, 20)), LONGEST)
        return max(_NONE, record.last_at + pause - now)

    def failed(self, address: str, now: datetime) -> None:
        """Count an attempt that failed, or is not known yet to succeed."""
        key = counted_as(address)
        before = self._records.pop(key, None)
        fresh = before is None or now - before.last_at > _FORGOTTEN_AFTER
        self._records[key] = _Record(1 if before is None or fresh else before.failures + 1, now)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def take_back(self, address: str) -> None:
        """Uncount the last attempt of *address*, which could not be checked."""
        key = counted_as(address)
        if record := self._records.get(key):
            self._records[key] = record._replace(failures=record.failures - 1)

    def succeeded(self, address: str) -> None:
        """Forget the failures of *address*."""
        self._records.pop(counted_as(address), None)
