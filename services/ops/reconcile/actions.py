"""The reconciler's actions on one training: publish its end, ask Replicate, identify it, give it up. Edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import structlog

from services.ops.reconcile.plan import Fetch, GiveUp, Identify, NeverStarted, Report, RetryExtraction, Step, Wait
from services.ops.reconcile.store import Store
from services.ops.reconcile.trainings import Limits, Stage, Unfinished, after_report, next_check
from services.ops.reconcile.views import RecoveryOutcome
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import Event, ExtractionFailed, TrainingFailed
from shared.contract.identity import TrainingId
from shared.replicate.answers import TrainingsPage
from shared.replicate.errors import NotThere
from shared.replicate.training import Training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Origin
from shared.runtime import telemetry, tracing
from shared.runtime.span import NO_SPAN, Kind

log = structlog.get_logger()

SOURCE: Final = "ops"
#: Error code of a training whose model was not verified in time.
_GIVEN_UP: Final = "given_up"

#: Returns when the broker has confirmed it.
Publish: TypeAlias = Callable[[Envelope], Awaitable[None]]


class Replicate(Protocol):
    """Replicate's API."""

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage: ...

    async def get_training(self, training_id: str) -> Training: ...


class State(Protocol):
    """State's API."""

    def unfinished(self) -> AsyncIterator[Unfinished]: ...

    async def knows(self, training_id: str) -> bool: ...

    async def stage_of(self, ref: UUID) -> str: ...

    async def retry_extraction(self, training: str) -> None: ...

    async def never_started(self, ref: UUID, reason: str) -> None: ...


class Actions:
    """Takes single steps of a plan."""

    def __init__(
        self,
        state: State,
        replicate: Replicate,
        store: Store,
        publish: Publish,
        *,
        limits: Limits,
        spend: Callable[[], None],
    ) -> None:
        """*spend* takes one call from the budget, or raises `OutOfCalls`."""
        self._state = state
        self._replicate = replicate
        self._store = store
        self._publish = publish
        self._limits = limits
        self._spend = spend
        self._ended = {outcome: telemetry.reconciled.labels(outcome) for outcome in RecoveryOutcome}

    async def take(self, step: Step, moment: datetime) -> None:
        """Do what *step* says; all but waiting is a trace of its own."""
        is_wait = isinstance(step, Wait)
        with NO_SPAN if is_wait else tracing.span("reconcile", Kind.INTERNAL):
            await self._take(step, moment)

    async def _take(self, step: Step, moment: datetime) -> None:
        match step:
            case Report(training, found):
                await self._report(training, found, moment)
            case Fetch(training, training_id):
                await self._fetch(training, training_id, moment)
            case Identify(training, candidates, otherwise):
                await self._identify(training, candidates, otherwise, moment)
            case RetryExtraction(training):
                await self._state.retry_extraction(str(training.ref))
                await self._store.record_check(training, moment, look_at=after_report(training, moment, self._limits))
            case GiveUp(training, training_id, reason):
                await self._give_up(training, training_id, reason, moment)
            case NeverStarted(training, reason):
                publish = partial(self._state.never_started, training.ref, reason)
                await self._end(training, RecoveryOutcome.NEVER_STARTED, reason, publish, moment)
            case Wait(training, is_absent):
                await self._check_later(training, moment, is_absent=is_absent)

    async def _report(self, training: Unfinished, found: Training, moment: datetime) -> None:
        """
        Publish what Replicate says of a training, as its webhook would have done.

        Not if an event came since the round began, which may be minutes ago. After an hour Replicate removes the
        output: an end that is reported a second time, and without it, would become a dead letter.
        """
        if found.has_ended and await self._state.stage_of(training.ref) != training.stage:
            return
        event = translate(found, Origin(training.claim), recovered=True)
        if found.has_ended:
            known = training.model_copy(update={"training_id": found.id})
            reason = f"Replicate says {found.status}; no webhook said so"
            await self._end(
                known, RecoveryOutcome.RECOVERED, reason, partial(self._publish_event, event, moment), moment
            )
        else:
            await self._publish_event(event, moment)
            await self._check_later(training, moment)

    async def _fetch(self, training: Unfinished, training_id: TrainingId, moment: datetime) -> None:
        self._spend()
        if not await self._store.count_get(training, moment):
            await self._check_later(training, moment)
            return
        try:
            found = await self._replicate.get_training(training_id)
        except NotThere:
            await self._check_later(training, moment, is_absent=True)
            return
        await self._report(training, found, moment)

    async def _identify(
        self, training: Unfinished, candidates: Sequence[Training], otherwise: Step, moment: datetime
    ) -> None:
        unregistered = [each for each in candidates if not await self._state.knows(each.id)]
        if not unregistered:
            await self.take(otherwise, moment)
        elif len(unregistered) == 1:
            await self._report(training, unregistered[0], moment)
        else:
            await self._check_later(training, moment)

    async def _give_up(self, training: Unfinished, training_id: TrainingId, reason: str, moment: datetime) -> None:
        known: dict[str, Any] = {"training_id": training_id, "ref": training.ref}
        event: Event = TrainingFailed(**known, recovered=True, reason=reason)
        if training.stage is Stage.VERIFYING:
            await self._check_replicate(training_id)
            event = ExtractionFailed(**known, user_id=training.user_id, error=_GIVEN_UP, detail=reason)
        await self._end(training, RecoveryOutcome.GIVEN_UP, reason, partial(self._publish_event, event, moment), moment)

    async def _check_replicate(self, training_id: str) -> None:
        """Raise if Replicate does not answer: an outage, or a token that it refuses, is no failure of a training."""
        self._spend()
        with suppress(NotThere):
            await self._replicate.get_training(training_id)

    async def _publish_event(self, event: Event, moment: datetime) -> None:
        await self._publish(wrap(event, source=SOURCE, now=moment))

    async def _end(
        self,
        training: Unfinished,
        outcome: RecoveryOutcome,
        reason: str,
        publish: Callable[[], Awaitable[None]],
        moment: datetime,
    ) -> None:
        """Store an outcome, then *publish* it: after a crash in between it is published again, but counted once."""
        is_new = await self._store.settle(training, outcome, reason, moment)
        await publish()
        await self._store.record_check(training, moment, look_at=after_report(training, moment, self._limits))
        if is_new:
            self._ended[outcome].inc()
            log.info(
                "training.reconciled",
                outcome=outcome,
                ref=str(training.ref),
                training_id=training.training_id,
                user_id=training.user_id,
            )

    async def _check_later(self, training: Unfinished, moment: datetime, *, is_absent: bool = False) -> None:
        look_at = next_check(training, moment, self._limits, is_absent=is_absent)
        await self._store.record_check(training, moment, look_at=look_at, is_absent=is_absent)
