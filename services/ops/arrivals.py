"""
When the oldest waiting message of a queue arrived. Pure.

RabbitMQ does not tell it for quorum queues, and to look at a message counts as a delivery. But it counts the messages
that arrived: of 100 that arrived and 3 that wait, the oldest waiting one is the 98th. Samples of that count tell when
the 98th arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

#: Samples of one queue; beyond that every second one is dropped.
_MOST_SAMPLES: Final = 1000


class Arrivals:
    """Samples of how many messages ever arrived in each queue."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[datetime, int]]] = {}

    def note(self, arrived: Mapping[str, int], *, at: datetime) -> None:
        """Add a sample for each queue; forget all that are not in *arrived*."""
        for name in self._samples.keys() - arrived.keys():
            del self._samples[name]
        for name, count in arrived.items():
            samples = self._samples.setdefault(name, [])
            if samples and count < samples[-1][1]:
                samples.clear()  # RabbitMQ counts from 0 again after a restart
            if not samples or count > samples[-1][1]:
                samples.append((at, count))
            if len(samples) > _MOST_SAMPLES:
                del samples[1::2]

    def oldest(self, name: str, *, arrived: int, waiting: int, now: datetime) -> datetime | None:
        """Return when the oldest of *waiting* messages arrived; None if none waits, or it was before all samples."""
        samples, gone = self._samples.get(name, []), arrived - waiting
        if not waiting or not samples or samples[0][1] > gone:
            return None
        return next((at for at, count in samples if count > gone), now)
