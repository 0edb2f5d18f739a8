"""What the store of replays takes and returns, and its errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.ops.replays.plan import Counts, Rules, SetModel, Status, model_before
from services.ops.replays.views import StartReplay
from shared.contract.errors import PermanentError


class NothingSelected(PermanentError):
    """There is no dead letter to replay."""

    code = "nothing_selected"


class TooManySelected(PermanentError):
    """More dead letters than one replay takes."""

    code = "too_many_selected"


class NoReplay(PermanentError):
    """There is no such replay."""

    code = "no_replay"

    def __init__(self, replay_id: UUID) -> None:
        super().__init__(f"there is no replay {replay_id}")


class NotNow(PermanentError):
    """The replay's status does not allow this."""

    code = "not_now"


@dataclass(frozen=True, slots=True)
class NewReplay:
    """A replay to create."""

    id: UUID
    actor: str
    wanted: StartReplay
    #: Replaces the one dead letter's own body.
    edited_body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running replay is."""

    rules: Rules
    counts: Counts
    #: Whether a process is publishing its dead letters now.
    is_claimed: bool
    rate_per_second: float
    #: When the next dead letter may go; changed by each claim.
    next_at: datetime
    #: How long it is until then; negative: the time has passed.
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round of a replay."""

    #: Why some dead letters, or users, are not done; they are tried again.
    failures: Sequence[BaseException] = field(default=())
    #: Others were done: the next round need not wait for those that failed.
    is_underway: bool = False
    #: When there is more to do; None: when an outcome comes.
    seconds: float | None = None
    #: Another process does it.
    is_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A replay with something to do."""

    replay_id: UUID
    status: Status
    is_undoing: bool
    rate_per_second: float
    #: What holds it up, as stored.
    trouble: str


class Ended(NamedTuple):
    """A dead letter of a replay that has its outcome, and when it got it."""

    letter: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Revert:
    """An order to take back the model that a replay gave a user."""

    replay_id: UUID
    user_id: str
    #: The generation of the model that it set last.
    generation: int
    #: The model before those that it set; None: there was none.
    to: str | None
    reason: str
    actor: str
    #: The model that it set last.
    model: str = ""

    @classmethod
    def of(
        cls, replay_id: UUID, user_id: str, models: Sequence[SetModel], *, reason: str = "", actor: str = ""
    ) -> Revert:
        """Return what takes back all *models* that the replay gave a user, the newest of them first."""
        last = models[0]
        return cls(replay_id, user_id, last.generation, model_before(models), reason, actor, last.model)
