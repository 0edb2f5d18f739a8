"""What does state say that replayed letters came to? One batch of deliveries, one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.ops.replays.plan import Mark
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed
from shared.contract.events import Effect, ReplaySettled

#: One for each delivery: written down, or how it alone failed.
Result = tuple[()] | Exception


class Store(Protocol):
    """Where replays are kept."""

    async def settle(self, settled: Mapping[Mark, Sequence[ReplaySettled]]) -> None: ...


class Outcomes:
    """The queue `modelswap.ops`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """
        Write down what *envelopes* say.

        Raises:
            DependencyDown: if Postgres is away.

        """
        results: list[Result] = []
        settled: dict[Mark, list[ReplaySettled]] = {}
        for envelope in envelopes:
            said = _read(envelope)
            if isinstance(said, Exception):
                results.append(said)
                continue
            results.append(())
            for mark, event in said.items():
                settled.setdefault(mark, []).append(event)
        if settled:
            await self._store.settle(settled)
        return results


def _read(envelope: Envelope) -> Mapping[Mark, ReplaySettled] | Malformed:
    event = envelope.event
    if not isinstance(event, ReplaySettled):
        return Malformed(f"nothing is to be done here about {event.key}", code="unexpected_event")
    mark = Mark.parse(event.replay)
    if mark is None:
        return Malformed(f"{event.replay[:100]!r} is no mark of a replay", code="unknown_mark")
    own = Mark.parse(envelope.replay or "")
    if own is None or own == mark:
        return {mark: event}
    # This very message was a dead letter, and is replayed: that is settled by being read.
    return {mark: event, own: event.model_copy(update={"replay": str(own), "effect": Effect.MOVED, "event": event.key})}
