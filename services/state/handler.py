"""What becomes of a batch of deliveries? One transaction; its results tell the runtime what to do with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from services.state.estimate import Report, latest
from services.state.swap import Result, UnconfirmedRef
from shared.contract.envelope import Envelope


class Store(Protocol):
    """Where trainings and models are kept."""

    async def apply(self, envelopes: Sequence[Envelope]) -> Sequence[Result]: ...

    async def record_progress(self, reports: Sequence[Report]) -> None: ...


class Handler:
    """The two queues of this service."""

    def __init__(self, store: Store, ask_about: Callable[[str], None] = lambda _: None) -> None:
        """*ask_about* has Replicate asked, soon, which of our trainings one is."""
        self._store = store
        self._ask_about = ask_about

    async def handle(self, envelopes: Sequence[Envelope]) -> Sequence[tuple[()] | Exception]:
        """
        Apply *envelopes* in one transaction; of each, no events follow (the outbox has them), or how it alone failed.

        Raises:
            DependencyDown: if Postgres is away.
            ModelswapError: if the batch as a whole can not be applied: each may be tried alone.

        """
        results = await self._store.apply(envelopes)
        for envelope, result in zip(envelopes, results, strict=True):
            if isinstance(result, UnconfirmedRef):
                self._ask_about(envelope.event.training_id)
        return [() if result is None else result for result in results]

    async def handle_progress(self, envelopes: Sequence[Envelope]) -> Sequence[tuple[()] | Exception]:
        """
        Remember the furthest report of each training. What is not known, over or locked is left alone.

        Raises:
            DependencyDown: if Postgres is away.

        """
        await self._store.record_progress(latest(envelopes))
        return [()] * len(envelopes)
