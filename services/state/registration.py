"""The registration of a training. Pure."""

from __future__ import annotations

from typing import Final, Self
from uuid import UUID, uuid4

from pydantic import Field

from services.state.requests import RegisterTraining
from services.state.views import TrainingView
from shared.contract.errors import PermanentError

#: Failure code of a training that Replicate was never asked to run.
NOT_STARTED: Final = "not_started"


class RegisteredOtherwise(PermanentError):
    """The training is registered with another user, destination, trainer or trigger word."""

    code = "registered_otherwise"


class UserDeleted(PermanentError):
    """A deleted user gets no new trainings."""

    code = "user_deleted"


class Registration(RegisterTraining):
    """A training to register."""

    ref: UUID = Field(default_factory=uuid4)
    #: Replicate's id, if it runs already.
    training_id: str | None = None

    @classmethod
    def of(cls, body: RegisterTraining, *, total_steps: int | None, training_id: str | None = None) -> Self:
        """Return the registration that *body* asks for."""
        fields = {name: getattr(body, name) for name in RegisterTraining.model_fields}
        return cls(**{**fields, "total_steps": total_steps, "training_id": training_id})

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
