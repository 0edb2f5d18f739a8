"""Memory of the gate: the results of models' runs, so that no run is paid for twice. The time is passed in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from services.extractor.errors import DoesNotWork
from shared.contract.identity import ModelRef

#: Longer than the delay of a redelivery; Replicate itself deletes a run after an hour.
_REMEMBERED_SECONDS: Final = 3600.0
#: A version never changes, but what it depends on (weights, a machine) may be repaired, so a failure expires.
BAD_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that proved a model bad, and the request that started it."""

    # Not the error itself: its traceback keeps the image in memory.
    text: str
    code: str
    request_id: UUID | None
    until: float


@dataclass(slots=True)
class Memory:
    """Known facts of a model's run, so that a redelivery or a replay does not pay for another run."""

    since: float
    prediction_id: str | None = None
    #: When the run was found or started. A 404 is ignored until it must have ended.
    run_since: float = 0.0
    #: When the response to a start was lost: a run may be underway that is not listed yet.
    unanswered_since: float | None = None
    #: Whether this process knows all runs of the model. If not, Replicate's list is read before starting one.
    knows_runs: bool = False
    works: bool = False
    failure: Failure | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def raise_failure(self, now: float, request_id: UUID | None) -> None:
        """Raise the remembered failure, unless it expired or another *request_id* asks for a new run."""
        failure = self.failure
        if failure and now < failure.until and request_id in (None, failure.request_id):
            raise DoesNotWork(f"{failure.text} (seen before, not run again)", code=failure.code)


class Memories:
    """What is remembered of each model, at most *most* of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._memories: dict[ModelRef, Memory] = {}

    def find(self, ref: ModelRef, now: float) -> Memory | None:
        self._forget(now)
        return self._memories.get(ref)

    def get(self, ref: ModelRef, now: float) -> Memory:
        """Return the memory of *ref*; an empty one if there is none."""
        self._forget(now)
        return self._memories.setdefault(ref, Memory(since=now))

    def _forget(self, now: float) -> None:
        """Drop expired and surplus memories, oldest first; each costs at most one more run."""
        while self._memories:
            oldest = next(iter(self._memories))
            if len(self._memories) <= self._most and now < self._memories[oldest].since + _REMEMBERED_SECONDS:
                break
            del self._memories[oldest]
