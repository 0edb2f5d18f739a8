"""
Asks Replicate about single trainings. Edge.

*   Trainings whose webhooks came to an address that we signed, but whose bodies do not confirm it (`UnconfirmedRef`):
    Replicate's API tells where a training's webhooks go. If that is an address of ours, the training is attached to the
    row that the address names.
*   Trainings that were registered while Replicate did not answer (`adopting`).

If such a training has ended, the event is published that its last webhook would have become.

The queue is kept in memory. After a restart the next retry of an event asks again, and the reconciler finds overdue
trainings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.state.adopting import Replicate, report_of
from services.state.changes import Result
from services.state.swap import UnconfirmedRef
from services.state.transitions import AT_REPLICATE
from services.state.views import TrainingView
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.events import TrainingEvent
from shared.replicate.errors import NotThere
from shared.replicate.training import Training
from shared.replicate.webhook_url import Claim, claim_in
from shared.runtime.periodic import run_periodically

log = structlog.get_logger()

#: Limit of the queue. Other trainings are asked about when their events are retried.
_MOST_WAITING: Final = 1000
#: Pause between two questions: a tenth of the calls that Replicate allows.
_EVERY_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 60.0
#: How long to wait for a question, unless one comes.
_IDLE_SECONDS: Final = 3600.0


class Trainings(Protocol):
    """The store."""

    async def find_training(self, name: str | UUID) -> TrainingView | None: ...

    async def attach(self, record: TrainingView, training_id: str) -> TrainingView: ...

    async def report(self, record: TrainingView, event: TrainingEvent) -> None: ...


class Inquiries:
    """A queue of trainings to ask Replicate about."""

    def __init__(
        self,
        trainings: Trainings,
        replicate: Replicate | None,
        ref_secrets: Sequence[str],
        *,
        every_seconds: float = _EVERY_SECONDS,
        pause_seconds: float = 1.0,
    ) -> None:
        """
        Ask one question *every_seconds*; after a failure wait for about *pause_seconds*, and longer each time.

        *replicate* is None without a token: then nothing is asked.
        """
        self._trainings = trainings
        self._replicate = replicate
        self._ref_secrets = ref_secrets
        self._every_seconds = every_seconds
        self._pause_seconds = pause_seconds
        #: Training ids, in order.
        self._waiting: dict[str, None] = {}
        self._has_question = asyncio.Event()

    def ask_about(self, training_id: str) -> None:
        """Ask about a training soon, unless the queue is full."""
        if self._replicate is not None and len(self._waiting) < _MOST_WAITING:
            self._waiting.setdefault(training_id)
            self._has_question.set()

    def ask_about_unconfirmed(self, envelopes: Sequence[Envelope], results: Sequence[Result]) -> None:
        """Ask about the trainings of *envelopes* that were not found because their ref is not confirmed."""
        for envelope, result in zip(envelopes, results, strict=True):
            if isinstance(result, UnconfirmedRef):
                self.ask_about(envelope.event.training_id)

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask until *stopping* is set."""
        await run_periodically(
            "inquiries",
            self._ask_next,
            stopping,
            wake=self._has_question,
            first_seconds=self._pause_seconds,
            longest_seconds=_LONGEST_PAUSE_SECONDS,
        )

    async def _ask_next(self) -> float:
        """Ask about the first training, and pause; return how long to wait for the next question."""
        if self._replicate is None or not self._waiting:
            return _IDLE_SECONDS
        training_id = next(iter(self._waiting))
        del self._waiting[training_id]
        try:
            await self._answer(await self._replicate.get_training(training_id))
        except NotThere:
            log.info("inquiry.not_at_replicate", training_id=training_id)
        except DependencyDown:
            self._waiting.setdefault(training_id)
            raise
        except ModelswapError as error:
            log.warning("inquiry.failed", training_id=training_id, error=error.code, detail=str(error))
        # Within the round, because a new question ends the wait for the next one.
        await asyncio.sleep(self._every_seconds)
        return 0.0

    async def _answer(self, found: Training) -> None:
        record = await self._trainings.find_training(found.id) or await self._attach(found)
        log.info("inquiry.answered", training_id=found.id, status=found.status, ref=str(record.ref) if record else None)
        if record is None or record.stage not in AT_REPLICATE:
            return
        claim = Claim(record.ref, record.destination, record.total_steps, record.user_id)
        event = report_of(found, claim)
        if event is not None:
            await self._trainings.report(record, event)

    async def _attach(self, found: Training) -> TrainingView | None:
        """Attach *found* to the row of its webhook address; return the row, or None if it has another training."""
        claim = claim_in(found.webhook, self._ref_secrets)
        record = await self._trainings.find_training(claim.ref) if claim else None
        if record is None:
            return None
        record = await self._trainings.attach(record, found.id)
        return record if record.training_id == found.id else None
