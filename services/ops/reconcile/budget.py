"""The calls to Replicate that reconciliation may make. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class CallBudget:
    """How many calls are left; *per_minute* come back in each minute, and no more than those are ever saved."""

    per_minute: int
    left: float = field(init=False)
    _then: float | None = None

    def __post_init__(self) -> None:
        self.left = float(self.per_minute)

    def spend(self, now: float) -> bool:
        """Take one at *now* (seconds, of any clock that only rises), if there is one."""
        passed = now - (now if self._then is None else self._then)
        self._then = now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        if self.left < 1:
            return False
        self.left -= 1
        return True
