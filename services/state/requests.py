"""Request bodies of the API. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from services.state.views import EXAMPLE, example
from shared.contract.answers import NUMBER, Flag
from shared.contract.checked import PRINTABLE, STORABLE, Reason
from shared.contract.identity import ModelName, ModelRef, TrainingId, UserId

_STEPS_MOST: Final = 2**31 - 1


def _from_token(_: object) -> None:
    raise ValueError("is the name of the token, and cannot be used as an actor: leave it out")


#: A field of earlier requests: refused with an explanation, and not in the API's description.
FromToken = Annotated[SkipJsonSchema[None], BeforeValidator(_from_token)]
TriggerWord = Annotated[str, Field(max_length=200), PRINTABLE]
Steps = Annotated[int, Field(gt=0, le=_STEPS_MOST), NUMBER]


class _Body(BaseModel):
    # A field's docstring is its description in the API's document.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RegisterTraining(_Body):
    """A training that Replicate runs already."""

    model_config = example({"user_id": EXAMPLE.user_id, "destination": EXAMPLE.destination, "trigger_word": "TOK"})

    user_id: UserId
    destination: ModelName
    """The model on Replicate that gets the new version. It must exist."""
    trainer: ModelRef | None = None
    """``owner/name:version``. Required if modelswap starts the training."""
    trigger_word: TriggerWord = ""
    """The word that a prompt must contain to use what the model learned."""
    total_steps: Steps | None = None
    """For progress. Default: read from the input, or from the log."""


_NEEDS_TRAINER: Final[dict[str, Any]] = {
    "anyOf": [
        {"properties": {"start": {"const": False}}, "required": ["start"]},
        {"properties": {"trainer": {"type": "string"}}, "required": ["trainer"]},
    ]
}


class StartTraining(RegisterTraining):
    """A training to start."""

    model_config = example(
        {
            "user_id": EXAMPLE.user_id,
            "destination": EXAMPLE.destination,
            "trainer": EXAMPLE.trainer,
            "input": {"input_images": "https://example.com/photos.zip", "steps": 1000},
            "trigger_word": "TOK",
        },
        **_NEEDS_TRAINER,
    )

    input: Annotated[dict[str, JsonValue], STORABLE] = {}
    """The trainer's input at Replicate. It is not stored."""
    start: Flag = True
    """False: you start the training yourself, with the `webhook_url` of the answer."""


class RollBack(_Body):
    """Make an earlier model of the user the current one."""

    model_config = example({"reason": "faces are too dark", "to": EXAMPLE.earlier_model})

    to: ModelRef | None = None
    """``owner/name:version``, one of the user's own; null: the newest earlier one that no operator has taken back."""
    reason: Reason
    """Stored in the history."""
    actor: FromToken = None
    dry_run: Flag = False
    """True: nothing is changed; the answer shows what would be."""


class Withdraw(_Body):
    """Take the user's current model away: the user has none afterwards."""

    model_config = example({"reason": "trained on the photos of somebody else"})

    reason: Reason
    """Stored in the history."""
    dry_run: Flag = False
    """True: nothing is changed; the answer shows what would be."""


class NeverStarted(_Body):
    """Replicate was never asked to run the training."""

    reason: Reason


class FindTrainings(_Body):
    """Which trainings to return."""

    training_ids: Annotated[tuple[TrainingId, ...], Field(min_length=1, max_length=200)]
