"""
Registration of a training that was started elsewhere: it is looked up at Replicate first, then stored.

    it runs       stored; its webhooks bring the rest
    it has ended  stored, with the event that its last webhook would have become
    404           retried, then not stored: `NotAtReplicate`
    no answer     stored, and asked about later by `inquiries`

Pure but for Replicate and the store. Replicate is asked outside of any transaction, so no swap waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.state.registration import Registration
from services.state.views import TrainingView
from shared.contract.errors import ModelswapError, PermanentError
from shared.contract.events import TrainingEvent
from shared.replicate.errors import NotThere
from shared.replicate.training import Training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Claim, Origin

log = structlog.get_logger()

#: Time limit for Replicate's answer.
_ASK_SECONDS: Final = 6.0
#: Delays before Replicate is asked again: a new training may not be visible yet.
_RETRY_SECONDS: Final = (0.5, 1.0)


class NotAtReplicate(PermanentError):
    """Replicate has no training with this id that our token may see."""

    code = "no_such_training_at_replicate"


class Replicate(Protocol):
    """Replicate's API."""

    async def get_training(self, training_id: str) -> Training: ...


class Trainings(Protocol):
    """The store."""

    async def find_training(self, name: str | UUID) -> TrainingView | None: ...

    async def adopt(
        self, registration: Registration, report: TrainingEvent | None = None
    ) -> tuple[TrainingView, bool]: ...


@dataclass(frozen=True, slots=True)
class Adopted:
    """A training registered by Replicate's id."""

    record: TrainingView
    is_new: bool
    #: Replicate did not answer; `inquiries` asks again.
    is_asked_later: bool = False


async def adopt(
    registration: Registration,
    training_id: str,
    *,
    replicate: Replicate,
    trainings: Trainings,
    ask_later: Callable[[str], None] | None,
) -> Adopted:
    """
    Register a training that Replicate knows already. Without a token, it is not checked.

    *ask_later* schedules another question to Replicate; None without a token.

    Raises:
        NotAtReplicate: if Replicate has no such training.
        RegisteredOtherwise, UserDeleted: as `Trainings.adopt`.

    """
    if ask_later is None or await trainings.find_training(training_id) is not None:
        return Adopted(*await trainings.adopt(registration))
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            found = await _ask(training_id, replicate)
    except NotThere as error:
        raise NotAtReplicate(f"Replicate has no training {training_id}, or none that our token may see") from error
    except (ModelswapError, TimeoutError) as error:
        log.info("training.not_asked_about", training_id=training_id, detail=str(error) or type(error).__name__)
        record, is_new = await trainings.adopt(registration)
        ask_later(training_id)
        return Adopted(record, is_new, is_asked_later=True)
    claim = Claim(registration.ref, registration.destination, registration.total_steps, registration.user_id)
    return Adopted(*await trainings.adopt(registration, report_of(found, claim)))


async def _ask(training_id: str, replicate: Replicate) -> Training:
    for seconds in _RETRY_SECONDS:
        try:
            return await replicate.get_training(training_id)
        except NotThere:
            await asyncio.sleep(seconds)
    return await replicate.get_training(training_id)


def report_of(found: Training, claim: Claim) -> TrainingEvent | None:
    """Return the end of a training as the event that its last webhook would have become, or None if it runs."""
    return translate(found, Origin(claim), recovered=True) if found.has_ended else None
