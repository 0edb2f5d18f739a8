"""
How is a training registered that was started elsewhere? Replicate is asked about it first, then it is written down.

    it runs       written down: its webhooks tell the rest
    it has ended  written down together with the event that its last webhook would have become
    404           again and again: not written down, `NotAtReplicate`
    no answer     written down, and asked about again later: `inquiries`

Pure, but for the question. It is asked outside of any transaction, so no swap waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.state.records import Registration, TrainingRecord
from shared.contract.errors import ModelswapError, PermanentError
from shared.contract.events import TrainingEvent
from shared.replicate.errors import NotThere
from shared.replicate.training import Training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import Claim, Origin

log = structlog.get_logger()

#: Whoever registers a training waits that long for Replicate, and no longer.
_ASK_SECONDS: Final = 6.0
#: A training that was started a moment ago may not be there yet.
_NOT_YET: Final = (0.5, 1.0)
#: An answer of Replicate's is never larger.
_ANY_SIZE: Final = 8 * 1024 * 1024


class NotAtReplicate(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """Replicate has no training of this id, or none that our token may see."""

    code = "no_such_training_at_replicate"


class Replicate(Protocol):
    """What is asked of Replicate."""

    async def get_training(self, training_id: str) -> Training: ...


class Trainings(Protocol):
    """Where trainings are written down."""

    async def find_training(self, name: str | UUID) -> TrainingRecord | None: ...

    async def adopt(
        self, registration: Registration, report: TrainingEvent | None = None
    ) -> tuple[TrainingRecord, bool]: ...


@dataclass(frozen=True, slots=True)
class Adopted:
    """A training that is registered by Replicate's id."""

    record: TrainingRecord
    is_new: bool
    #: Could Replicate not be asked about it yet?
    is_asked_later: bool = False


async def adopt(
    registration: Registration,
    training_id: str,
    *,
    replicate: Replicate,
    trainings: Trainings,
    ask_later: Callable[[str], None] | None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Adopted:
    """
    Register a training that Replicate knows already; on the caller's word, where we have no token to ask with.

    *ask_later* has Replicate asked once more, later; None without a token.

    Raises:
        NotAtReplicate: if Replicate does not know it.
        RegisteredOtherwise, UserDeleted: as `Trainings.adopt`.

    """
    if ask_later is None or await trainings.find_training(training_id) is not None:
        return Adopted(*await trainings.adopt(registration))
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            found = await _ask(training_id, replicate, sleep)
    except NotThere as error:
        raise NotAtReplicate(f"Replicate has no training {training_id}, or none that our token may see") from error
    except (ModelswapError, TimeoutError) as error:
        log.warning("training.not_asked_about", training_id=training_id, detail=str(error) or type(error).__name__)
        record, is_new = await trainings.adopt(registration)
        ask_later(training_id)
        return Adopted(record, is_new, is_asked_later=True)
    claim = Claim(registration.ref, registration.destination, registration.total_steps)
    return Adopted(*await trainings.adopt(registration, report_of(found, claim)))


async def _ask(training_id: str, replicate: Replicate, sleep: Callable[[float], Awaitable[None]]) -> Training:
    for seconds in _NOT_YET:
        try:
            return await replicate.get_training(training_id)
        except NotThere:
            await sleep(seconds)
    return await replicate.get_training(training_id)


def report_of(found: Training, claim: Claim) -> TrainingEvent | None:
    """How a training of ours has ended, as the event that its last webhook would have become."""
    return translate(found, Origin(claim), size_bytes=_ANY_SIZE, recovered=True) if found.has_ended else None
