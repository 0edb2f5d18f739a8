"""The handler of ops' own queue: outcomes of replayed dead letters, and rollbacks for the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.ops.letters.letter import ReplayMark
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed
from shared.contract.events import Event, ModelReverted, ReplaySettled
from shared.contract.values import Effect

#: One for each delivery: stored, or why it failed.
Result = tuple[()] | Exception


class Store(Protocol):
    """The store of replays."""

    async def settle(self, settled: Mapping[ReplayMark, Sequence[ReplaySettled]]) -> None: ...

    async def note_rollbacks(self, rollbacks: Sequence[ModelReverted]) -> None: ...


class Outcomes:
    """The queue `modelswap.ops`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """
        Store the outcomes and rollbacks in *envelopes*.

        Raises:
            DependencyDown: if Postgres is away.

        """
        results: list[Result] = []
        settled: dict[ReplayMark, list[ReplaySettled]] = {}
        rollbacks: list[ModelReverted] = []
        for envelope in envelopes:
            said = read(envelope)
            if isinstance(said, Exception):
                results.append(said)
                continue
            results.append(())
            if isinstance(envelope.event, ModelReverted):
                rollbacks.append(envelope.event)
            for mark, event in said.items():
                settled.setdefault(mark, []).append(event)
        if settled:
            await self._store.settle(settled)
        if rollbacks:
            await self._store.note_rollbacks(rollbacks)
        return results


def read(envelope: Envelope) -> Mapping[ReplayMark, ReplaySettled] | Malformed:
    """Return the outcomes that *envelope* states, or why it states none."""
    own = ReplayMark.parse(envelope.replay or "")
    match envelope.event:
        case ReplaySettled() as event:
            mark = ReplayMark.parse(event.replay)
            if mark is None:
                return Malformed(f"{event.replay[:100]!r} is no mark of a replay", code="unknown_mark")
            if own is None or own == mark:
                return {mark: event}
            return {mark: event, own: _outcome_at_ops(envelope.id, event, own, event.stage)}
        case ModelReverted() as event:
            stage = "active" if event.model else "replaced"
            return {} if own is None else {own: _outcome_at_ops(envelope.id, event, own, stage)}
        case Event() as event:
            return Malformed(f"ops does not handle {event.key}", code="unexpected_event")


def _outcome_at_ops(event_id: str, event: ReplaySettled | ModelReverted, own: ReplayMark, stage: str) -> ReplaySettled:
    """Return the outcome of a replayed message of ops' own queue: that ops has read it."""
    return ReplaySettled(
        training_id=event.training_id,
        replay=str(own),
        settled_by=event_id,
        event=event.key,
        effect=Effect.MOVED,
        user_id=event.user_id,
        stage=stage,
        generation=event.generation,
        model=event.model,
    )
