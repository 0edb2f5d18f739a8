"""Pages of all users' models: where a page ended, as a cursor, and from when on the next snapshot must begin. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from shared.contract.moments import from_microseconds, to_microseconds

#: How long before the start of a snapshot the next one begins. A change gets its time when it is written, and is seen
#: once it is committed. The limits of state's sessions (`shared.runtime.postgres`: 5 s for a statement, 7 s between
#: two) allow a minute and a half between the two at most. The rest covers clocks that differ after a failover.
OVERLAP: Final = timedelta(minutes=5)
#: Two times in microseconds, and the bytes of a user's id, in hexadecimal; every text that matches is a position.
CURSOR: Final = "^[0-9a-f]{28}([0-9a-f]{2}){1,800}$"

_DIGITS: Final = 14


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page of a snapshot ended."""

    #: When the snapshot began: when its first page was read.
    began_at: datetime
    #: Of the last item.
    updated_at: datetime
    user_id: str

    @classmethod
    def of(cls, cursor: str) -> Self:
        """Decode a cursor that matches `CURSOR`."""
        first, second, rest = cursor[:_DIGITS], cursor[_DIGITS : 2 * _DIGITS], cursor[2 * _DIGITS :]
        # No user's id holds a NUL, which Postgres would refuse.
        user_id = bytes.fromhex(rest).decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        return cls(_time(first), _time(second), user_id)

    def cursor(self) -> str:
        return f"{_digits(self.began_at)}{_digits(self.updated_at)}{self.user_id.encode().hex()}"


def _digits(moment: datetime) -> str:
    return f"{to_microseconds(moment):0{_DIGITS}x}"


def _time(digits: str) -> datetime:
    return from_microseconds(int(digits, 16))
