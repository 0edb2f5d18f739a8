"""When may the next call go out? Pure: a token bucket that is told the time and answers with a wait."""

from __future__ import annotations

#: How much of what Replicate allows we use up: others may call with the same account.
_SHARE = 0.9
#: How much of that may go out at once, after a pause.
_BURST = 0.1


class Budget:
    """
    At most *per_minute* calls in any minute.

    Those who come too early get a place in line, each behind the last.
    """

    def __init__(self, per_minute: float) -> None:
        allowed = per_minute * _SHARE
        self._burst = max(allowed * _BURST, 1.0)
        self._per_second = allowed * (1 - _BURST) / 60
        self._left = self._burst
        self._then: float | None = None

    def take(self, now: float) -> float:
        """Take one call at *now* (seconds, of any clock that only rises); how many seconds to wait before making it."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self._left = min(self._burst, self._left + passed * self._per_second) - 1
        return max(0.0, -self._left / self._per_second)
