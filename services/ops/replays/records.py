"""What is asked of the store of replays, and what does it answer? Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from services.ops.letters.letter import Mark
from services.ops.letters.views import Filter
from services.ops.replays.messages import Letter
from services.ops.replays.plan import Outcome, Status, Step
from shared.contract.errors import PermanentError


class NothingSelected(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """There is no letter to replay."""

    code = "nothing_selected"


class TooManySelected(PermanentError):  # noqa: N818 (likewise)
    """More letters than one replay takes."""

    code = "too_many_selected"


class KeyReused(PermanentError):  # noqa: N818 (likewise)
    """The `Idempotency-Key` was used for another request."""

    code = "idempotency_key_reused"


class NoReplay(PermanentError):  # noqa: N818 (likewise)
    """There is no such replay."""

    code = "no_replay"


class NotNow(PermanentError):  # noqa: N818 (likewise)
    """The replay's status does not allow this."""

    code = "not_now"


@dataclass(frozen=True, slots=True)
class Order:
    """A replay that is to be made."""

    id: UUID
    actor: str
    reason: str
    #: As it was asked for.
    selection: Mapping[str, Any]
    #: By their numbers, or by what they have in common.
    letters: Sequence[int] | Filter
    rate_per_second: float
    steps: Sequence[Step]
    stop_share: float
    is_dry_run: bool = False
    #: What goes instead of the one letter's own body.
    edited_body: bytes | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Which request this is: the same key with another digest is a mistake of the caller."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """That what a replay did is taken back."""

    status: str
    actor: str
    reason: str
    reverted: int
    kept: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """A replay as it is now."""

    id: UUID
    number: int
    created_at: datetime
    actor: str
    reason: str
    selection: Mapping[str, Any]
    rate_per_second: float
    steps: Sequence[int]
    stop_share: float
    status: Status
    status_reason: str
    #: What holds it up now; empty: nothing does.
    trouble: str
    started_at: datetime | None
    ended_at: datetime | None
    #: When the first of those letters was sent that have no outcome yet; None: there is none.
    sent_since: datetime | None
    #: How many letters have each outcome.
    outcomes: Mapping[Outcome, int]
    #: How many a dry run says would have each.
    predictions: Mapping[Outcome, int]
    #: How many letters with the same causes came since.
    arrived_since: int
    undo: UndoRecord | None


@dataclass(frozen=True, slots=True)
class LetterRecord:
    """A letter in a replay, as it is now."""

    position: int
    letter: int
    training_id: str | None
    is_edited: bool
    outcome: Outcome
    detail: str
    user_id: str | None
    stage: str | None
    generation: int | None
    model: str | None
    previous: str | None
    predicted: Outcome | None
    predicted_detail: str
    sent_at: datetime | None
    ended_at: datetime | None
    undo: str | None
    undo_detail: str


@dataclass(frozen=True, slots=True)
class Sendable:
    """A letter that may go now."""

    letter: Letter
    mark: Mark


@dataclass(frozen=True, slots=True)
class Unsent:
    """A letter that could not even be sent, and why that will not change by itself."""

    reason: str


#: What became of sending: None where the broker confirmed it.
SendResult: TypeAlias = BaseException | Unsent | None
#: Sends all, at once; one result for each, in order.
SendAll: TypeAlias = Callable[[Sequence[Sendable]], Awaitable[Sequence[SendResult]]]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of a replay came to."""

    #: Why some letters, or users, are not done; they are tried again.
    failures: Sequence[BaseException] = field(default=())
    #: Were others done? Then the next round need not wait for those that failed.
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
    #: What is said to hold it up.
    trouble: str


@dataclass(frozen=True, slots=True)
class Revert:
    """A user whose model a replay has set, and is to take back."""

    replay_id: UUID
    user_id: str
    #: The generation of the model that it set last.
    generation: int
    #: The model before those that it set; None: there was none.
    to: str | None
    reason: str
    actor: str
