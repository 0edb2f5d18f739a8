"""The registration of a training. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.state.views import TrainingView
from shared.contract.errors import PermanentError
from shared.contract.identity import ModelName, ModelRef

#: Failure code of a training that Replicate was never asked to run.
NOT_STARTED: Final = "not_started"


class RegisteredOtherwise(PermanentError):  # noqa: N818 (names a condition)
    """The training is registered with another user, destination, trainer or trigger word."""

    code = "registered_otherwise"


class UserDeleted(PermanentError):  # noqa: N818 (likewise)
    """A deleted user gets no new trainings."""

    code = "user_deleted"


@dataclass(frozen=True, slots=True)
class Registration:
    """A training to register."""

    ref: UUID
    user_id: str
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    total_steps: int | None
    #: Replicate's id, if it runs already.
    training_id: str | None = None

    def check_same(self, known: TrainingView) -> None:
        """
        Compare with the registered training. A field that was left open is not compared.

        Raises:
            RegisteredOtherwise: if a field differs.

        """
        is_same = {
            "user_id": self.user_id == known.user_id,
            "destination": self.destination == known.destination,
            "trainer": None in (self.trainer, known.trainer) or self.trainer == known.trainer,
            "trigger_word": self.trigger_word in ("", known.trigger_word),
        }
        if others := [name for name, same in is_same.items() if not same]:
            raise RegisteredOtherwise(f"training {known.training_id} is registered with another {' and '.join(others)}")
