"""
Which model does a rollback go back to where none is named? Pure: one rule over the history of a user.

    the newest model of the history that is not the current one, and that no operator has taken back

A model is taken back when an operator moves its user away from it: by a rollback, by the undo of a replay, which is
one, or by a withdrawal. It stays taken back, also where a training makes the same model again, until an operator
chooses it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.contract.events import Cause
from shared.contract.identity import ModelRef

_BY_OPERATORS: Final = (Cause.ROLLBACK, Cause.WITHDRAWAL)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the history, as far as the rule needs it."""

    cause: Cause
    #: The training whose model it is.
    ref: UUID
    #: None: a withdrawal.
    model: ModelRef | None
    previous: ModelRef | None


def model_before(history: Sequence[Line]) -> UUID | None:
    """The training whose model a rollback goes back to, by the user's *history*, oldest line first."""
    if not history:
        return None
    skipped = {history[-1].model, None} | _taken_back(history)
    return next((line.ref for line in reversed(history) if line.model not in skipped), None)


def _taken_back(history: Sequence[Line]) -> set[ModelRef | None]:
    models: set[ModelRef | None] = set()
    for line in history:
        if line.cause in _BY_OPERATORS:
            models.add(line.previous)
            models.discard(line.model)
    return models
