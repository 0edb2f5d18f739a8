"""
Predict the outcome of a dead letter: ask the services that would handle it, in turn; nothing is changed.

Each dead letter is predicted alone, against the present state: effects of others of the same user are not seen.
"""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from services.ops.letters.letter import ReplayMark
from services.ops.replays.messages import StoredLetter, message_of, translated
from services.ops.replays.outcomes import LetterOutcome, goes_to_extractor, is_outcome, outcome_of, read, refused
from services.ops.replays.plan import Outcome
from shared.contract.errors import DependencyDown, Malformed, ModelswapError
from shared.contract.events import ExtractionFailed, ModelReady, ReplaySettled, TrainingProgressed
from shared.contract.preview import Answer, Message, Refusal
from shared.contract.topology import DELIVERIES_QUEUE, EXTRACTOR_QUEUE, OPS_QUEUE, RECEIVER

log = structlog.get_logger()

#: A guard: the longest chain has four, the extractor and state, twice.
_MOST_HOPS: Final = 8


class Services(Protocol):
    """The services that would handle a dead letter."""

    async def preview_extractor(self, message: Message) -> Answer: ...

    async def preview_state(self, message: Message) -> Answer: ...


async def predict(letter: StoredLetter, mark: ReplayMark, services: Services) -> LetterOutcome:
    """
    Predict the outcome of a dead letter.

    Raises:
        DependencyDown: if a service is away.

    """
    try:
        return await _ask(letter, mark, services)
    except DependencyDown:
        raise
    except Exception as error:
        # A bug in the prediction is reported as a failure: an operator must look at the dead letter.
        if not isinstance(error, ModelswapError):
            log.exception("prediction.broken", letter=letter.number)
        return refused(Refusal.of(error), error_code=letter.error_code)


async def _ask(letter: StoredLetter, mark: ReplayMark, services: Services) -> LetterOutcome:
    if letter.queue == OPS_QUEUE:
        said = read(message_of(letter, mark).decode())
        if isinstance(said, Malformed):
            raise said
        return LetterOutcome(Outcome.MOVED, "ops records what it reports")
    if letter.queue == DELIVERIES_QUEUE:
        message_of(letter, mark).decode()
        return LetterOutcome(
            Outcome.DELIVERED, "it is sent to the endpoint again; only that attempt shows whether it is accepted"
        )
    if letter.queue != RECEIVER:
        return await _follow(
            letter, message_of(letter, mark), services, is_for_extractor=letter.queue == EXTRACTOR_QUEUE
        )
    envelope = translated(letter, mark)
    if isinstance(envelope.event, TrainingProgressed):
        return LetterOutcome(Outcome.NOTHING, "a progress report, which changes no stage")
    return await _follow(letter, Message.of(envelope), services, is_for_extractor=goes_to_extractor(envelope))


async def _follow(letter: StoredLetter, first: Message, services: Services, *, is_for_extractor: bool) -> LetterOutcome:
    underway = [(first, is_for_extractor)]
    for _ in range(_MOST_HOPS):
        if not underway:
            break
        message, is_for_extractor = underway.pop(0)
        ask = services.preview_extractor if is_for_extractor else services.preview_state
        answer = await ask(message)
        if answer.refusal is not None:
            return refused(answer.refusal, error_code=letter.error_code)
        for following in answer.messages:
            envelope = following.decode()
            match envelope.event:
                case ReplaySettled() as settled if is_outcome(letter.queue, letter.event_type, settled):
                    return outcome_of(settled)
                case ModelReady() | ExtractionFailed():
                    underway.append((following, False))
                case _ if goes_to_extractor(envelope):
                    underway.append((following, True))
    return LetterOutcome(Outcome.NOTHING, "nothing follows from it")
