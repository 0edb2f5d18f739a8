"""What does the broker not take now, and why? By where it was to go, because other queues may have room."""

from __future__ import annotations

import time
from collections.abc import Callable


class Refusals:
    """What was not taken lately, until it is."""

    def __init__(self, remembered_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._remembered_seconds = remembered_seconds
        self._clock = clock
        self._noted: dict[str, tuple[float, str]] = {}

    def note(self, address: str, reason: str) -> None:
        """What goes to *address* was not taken."""
        self._noted[address] = (self._clock(), reason)

    def forget(self, address: str) -> None:
        """It was taken, or is somebody else's."""
        self._noted.pop(address, None)

    @property
    def reason(self) -> str | None:
        """Why something is not taken, or None."""
        # What was given back comes again and is refused again. Or another process gets it, which does not tell us.
        oldest = self._clock() - self._remembered_seconds
        return next((reason for noted_at, reason in self._noted.values() if noted_at > oldest), None)
