"""The calls to Replicate that reconciliation may make. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class CallBudget:
    """A token bucket of *per_minute* calls, refilled within a minute."""

    per_minute: int
    left: float = field(init=False)
    _then: float | None = None

    def __post_init__(self) -> None:
        self.left = float(self.per_minute)

    def spend(self, now: float) -> bool:
        """Take one call at *now* (seconds of a monotonic clock); False if none is left."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        if self.left < 1:
            return False
        self.left -= 1
        return True
