"""What are operators shown of trainings that nobody told us of? Pure: the bodies of the API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.contract.checked import PRINTABLE

#: One webhook may get lost on its way. So many in an hour do not.
_BROKEN_FROM: Final = 3


class RecoveryOutcome(StrEnum):
    """What became of a training that was overdue."""

    RECOVERED = "recovered"  #: It had ended: Replicate was asked, because no webhook came.
    GIVEN_UP = "given_up"  #: Nobody could find out within the time that was set.
    NEVER_STARTED = "never_started"  #: Replicate was never asked for it.


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class RecoveryCounts(_View):
    """How often something happened."""

    last_hour: int = 0
    last_day: int = 0


class RoundView(_View):
    """How the last round went, in which overdue trainings were looked for."""

    at: datetime | None
    #: The last one that came to its end.
    last_success_at: datetime | None
    overdue: int
    calls_left: int
    #: What keeps us from asking; empty when nothing does.
    trouble: str


class RecoveryView(_View):
    """A training that was overdue, and what was done about it."""

    ref: UUID
    training_id: str | None
    user_id: str
    noticed_at: datetime
    looks: int
    #: How often Replicate was asked for this one alone.
    gets: int
    #: The next look; null for one that was only just noticed.
    look_at: datetime | None
    #: Why the last look failed, so that it is set aside until the next one; empty: it did not.
    trouble: str
    outcome: RecoveryOutcome | None
    settled_at: datetime | None


class Reconciliation(_View):
    """Whether what Replicate tells reaches us."""

    #: Do webhooks not arrive? So many trainings were recovered in the last hour that it is no accident.
    door_seems_broken: bool
    recovered: RecoveryCounts
    given_up: RecoveryCounts
    never_started: RecoveryCounts
    last_round: RoundView
    calls_per_minute: int
    #: How many trainings fail by themselves when they are looked at. They are tried again ever more rarely.
    set_aside: int
    #: Those that are set aside, then the latest, newest first.
    trainings: Sequence[RecoveryView]


class LookAgain(BaseModel):
    """The model of a training is to be looked for once more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=1000), PRINTABLE]


class LookedAgain(_View):
    """State was asked."""

    training_id: str


def door_seems_broken(recovered: RecoveryCounts) -> bool:
    """Are these more lost webhooks than accident loses?"""
    return recovered.last_hour >= _BROKEN_FROM
