"""Rate limit for API calls: a token bucket that takes the time as an argument and returns a wait. Pure."""

from __future__ import annotations

#: Share of Replicate's limit that we use: others may call with the same account.
_SHARE = 0.9
#: Share of that which may be called at once after a pause.
_BURST = 0.1


class Budget:
    """
    At most *per_minute* calls in any minute.

    Calls over the limit are queued in order: each waits longer than the one before.
    """

    def __init__(self, per_minute: float) -> None:
        allowed = per_minute * _SHARE
        self._burst = max(allowed * _BURST, 1.0)
        self._per_second = allowed * (1 - _BURST) / 60
        self._left = self._burst
        self._then: float | None = None

    def take(self, now: float) -> float:
        """Reserve a call at *now* (seconds of a monotonic clock); return how many seconds to wait before making it."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self._left = min(self._burst, self._left + passed * self._per_second) - 1
        return max(0.0, -self._left / self._per_second)
