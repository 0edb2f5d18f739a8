"""Requests and answers of the API of reconciliation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from services.ops.requests import Reasoned

#: Those of an outage are counted for an hour after it.
WHILE_AWAY: Final = "nothing, if RabbitMQ or the receiver was away in that hour"
#: Recovered trainings in an hour from which on webhooks do not arrive.
_BROKEN_FROM: Final = 3


class RecoveryOutcome(StrEnum):
    """The outcome of an overdue training."""

    RECOVERED = "recovered"  #: It had ended, and no webhook came.
    GIVEN_UP = "given_up"  #: Its end was not found in time.
    NEVER_STARTED = "never_started"  #: It was never started.


class RecoveryCounts(BaseModel):
    """How often something happened."""

    last_hour: int = 0
    last_day: int = 0


class RoundView(BaseModel):
    """The reconciler's last round."""

    at: datetime | None
    #: When the last successful round ended.
    last_success_at: datetime | None
    overdue: int
    calls_left: int
    #: Why the last round failed; empty: it did not.
    trouble: str


class RecoveryView(BaseModel):
    """A training that was overdue, and what was done about it."""

    ref: UUID
    training_id: str | None
    user_id: str
    noticed_at: datetime
    looks: int
    #: Requests to Replicate for this one alone.
    gets: int
    #: When it is checked next; null: it was only just noticed.
    look_at: datetime | None
    #: Why the last check failed; empty: it did not. Until the next one it is set aside.
    trouble: str
    outcome: RecoveryOutcome | None
    settled_at: datetime | None


class Reconciliation(BaseModel):
    """Whether webhooks arrive."""

    #: Too many trainings were recovered in the last hour: webhooks do not arrive.
    webhooks_seem_lost: bool
    recovered: RecoveryCounts
    given_up: RecoveryCounts
    never_started: RecoveryCounts
    last_round: RoundView
    calls_per_minute: int
    #: How many trainings cannot be checked. Each is tried again, less often each time.
    set_aside: int
    #: Those that are set aside, then the latest, newest first.
    trainings: Sequence[RecoveryView]


class RetryExtraction(Reasoned):
    """Why an extraction is retried."""


class ExtractionRetried(BaseModel):
    """The extraction is retried."""

    training_id: str


def webhooks_seem_lost(recovered: RecoveryCounts) -> bool:
    """Return whether more webhooks are lost than by chance."""
    return recovered.last_hour >= _BROKEN_FROM
