"""
Which open dead letters need no repair any more, because their trainings ended without it. Pure.

State changes a training that has ended only by a rollback: a replay of the dead letter would do nothing.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from shared.contract.topology import EXTRACTOR_QUEUE, STATE_QUEUE

#: The queues of events that move a training to its end. One about anything else is not closed by that end.
QUEUES: Final = (EXTRACTOR_QUEUE, STATE_QUEUE)
#: Stages with a model, as state calls them, and stages without.
_WITH_MODEL: Final = ("active", "replaced", "superseded")
_WITHOUT: Final = ("failed", "canceled")


class LetterTraining(BaseModel):
    """The training of a dead letter, as state shows it."""

    #: Replicate's id of it.
    training_id: str | None = None
    user_id: str
    stage: str
    #: Its model, once verified.
    reference: str | None = None


def why_closed(training: LetterTraining) -> str | None:
    """Return why open dead letters of *training* are closed; None if they stay open."""
    if training.stage in _WITH_MODEL and training.reference is not None:
        return f"by another event the training got its model, {training.reference}, and is {training.stage}"
    return f"by another event the training is {training.stage}" if training.stage in _WITHOUT else None
