"""What is asked of the store, and what does it answer? Pure: rows, as far as anybody outside of the store sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

from services.state.estimate import Progress
from services.state.swap import Failure
from services.state.transitions import Stage
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed, PermanentError
from shared.contract.events import Cause, ProgressSource
from shared.contract.identity import ModelName, ModelRef
from shared.contract.limits import Unpublishable

#: The code of a training's failure that Replicate was never asked for.
NOT_STARTED: Final = "not_started"
#: Publishes in order; one result for each envelope, None where the broker confirmed it.
Publish: TypeAlias = Callable[[Sequence[Envelope]], Awaitable[Sequence[BaseException | None]]]


@dataclass(frozen=True, slots=True)
class Registration:
    """A training that is to be written down."""

    ref: UUID
    user_id: str
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    total_steps: int | None
    #: Replicate's id, if it runs already.
    training_id: str | None = None

    def differences(self, known: TrainingRecord) -> list[str]:
        """Which fields say something else than what is *known*. One that was left open says nothing."""
        is_same = {
            "user_id": self.user_id == known.user_id,
            "destination": self.destination == known.destination,
            "trainer": None in (self.trainer, known.trainer) or self.trainer == known.trainer,
            "trigger_word": self.trigger_word in ("", known.trigger_word),
        }
        return [name for name, same in is_same.items() if not same]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Which request this is: the same key with another digest is a mistake of the caller."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A training, as it is known now."""

    number: int
    ref: UUID
    training_id: str | None
    user_id: str
    #: Drawn when it was requested.
    generation: int
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    total_steps: int | None
    stage: Stage
    step: int | None
    percent: int | None
    progress_source: ProgressSource | None
    #: How far it was when it was asked for, and how long the rest takes.
    shown: Progress
    model: ModelRef | None
    failure: Failure | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    #: Is its model the one that the user uses now?
    is_current: bool
    #: Of the last swap to its model; None: there was none.
    activated_generation: int | None


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """What came out of a training, and what it was taken for."""

    number: int
    ref: UUID
    training_id: str
    user_id: str
    stage: Stage
    destination: ModelName
    trainer: ModelRef | None
    trainer_version: str | None
    model: ModelRef | None
    #: JSON, as Replicate sent it.
    output: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The model that a user uses now."""

    user_id: str
    model: ModelRef
    generation: int
    training_id: str
    ref: UUID
    trigger_word: str
    activated_at: datetime


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One change of a user's model."""

    generation: int
    #: None: a withdrawal; the training is then that of the model before.
    model: ModelRef | None
    previous_model: ModelRef | None
    training_id: str
    ref: UUID
    trigger_word: str
    cause: Cause
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of the relay did."""

    published: int
    #: Why others were not; they are found again.
    failures: Sequence[BaseException] = ()
    #: The rows that this version can not read, and why.
    unreadable: Mapping[int, Malformed] = field(default_factory=dict)
    #: The rows that were set aside now, and why: they can never be published as they are.
    unpublishable: Mapping[int, Unpublishable] = field(default_factory=dict)
    #: How many rows are set aside, these among them.
    set_aside: int = 0


class UserDeleted(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """A deleted user gets no new trainings."""

    code = "user_deleted"


class KeyReused(PermanentError):  # noqa: N818 (likewise)
    """The `Idempotency-Key` was used for another request."""

    code = "idempotency_key_reused"


class RegisteredOtherwise(PermanentError):  # noqa: N818 (likewise)
    """The training is registered with another user, destination, trainer or trigger word."""

    code = "registered_otherwise"
