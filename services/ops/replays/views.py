"""Requests and answers of the API of replays. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field, model_validator

from services.ops.letters.views import SELECTIVE, Filter, LetterStatus, selective
from services.ops.replays.plan import REST, Counts, Outcome, Status, Step
from services.ops.requests import Name, Number, Reasoned, fields
from shared.contract.answers import NUMBER, Flag
from shared.contract.checked import STORABLE, Checked

DEFAULT_RATE: Final = 10.0
#: Slower than one dead letter in a quarter of an hour is a pause.
SLOWEST_RATE: Final = 0.001
FASTEST_RATE: Final = 1000.0
DEFAULT_STEPS: Final[tuple[Step, ...]] = (1, "5%", REST)
DEFAULT_STOP_SHARE: Final = 0.2
_MOST_NAMED: Final = 10_000
#: `ReplayView.arrived_since` counts no further.
MOST_ARRIVED: Final = 1000
_ALONE: Final = (
    "Each dead letter is predicted alone, against the present state: where several belong to one user, the later ones "
    "meet the changes of the earlier ones."
)
UNDERWAY: Final = (
    "A dead letter that was sent and fails with an error that time may heal is retried like a new message: it stays "
    "sent for as long as MODELSWAP_RETRY_DELAYS lasts, 3 h 22 min by default. The log of its consumer says why "
    "(delivery.retried). Pause the replay to send no more; cancel it twice to give such dead letters up."
)


def _share(step: str) -> str:
    if not re.fullmatch(_SHARE, step):
        raise ValueError(f"must be a number of dead letters, a share such as 5%, or {REST}")
    return step


_SHARE: Final = rf"^(?:{REST}|[1-9][0-9]{{0,8}}|(?:[1-9][0-9]{{0,2}}(?:\.[0-9]{{1,3}})?|0\.[0-9]{{0,2}}[1-9])%)$"
_Step = Annotated[int, Field(ge=1, lt=2**31), NUMBER] | Annotated[str, Checked(_share, pattern=_SHARE)]


#: Only these can be replayed.
_STATUS_OPEN: Final = {"status": {"enum": [LetterStatus.OPEN, None]}}


def _open(wanted: Filter) -> Filter:
    if wanted.status not in (None, LetterStatus.OPEN):
        raise ValueError("only open dead letters can be replayed")
    return selective(wanted)


class StartReplay(Reasoned):
    """Which dead letters to replay, and how."""

    model_config = ConfigDict(json_schema_extra={"oneOf": fields("letters", "group", "filter")})

    #: Their numbers; or:
    letters: Annotated[tuple[Number, ...], Field(min_length=1, max_length=_MOST_NAMED)] | None = None
    #: all open ones with this fingerprint; or:
    group: Name | None = None
    #: all open ones that this fits, in the words of ``GET /v1/dead-letters``. Which they are is settled now.
    filter: Annotated[Filter, Checked(_open, anyOf=SELECTIVE, properties=_STATUS_OPEN)] | None = None
    rate_per_second: Annotated[float, Field(ge=SLOWEST_RATE, le=FASTEST_RATE), NUMBER] = DEFAULT_RATE
    #: How many dead letters each step has: a number, a share, or the rest. A step waits for the outcomes of the last.
    steps: Annotated[tuple[_Step, ...], Field(min_length=1, max_length=20)] = DEFAULT_STEPS
    #: It stops by itself when more than this share fails: judged after each step, and within one from ten outcomes on.
    stop_when_failed_share: Annotated[float, Field(ge=0, le=1), NUMBER] = DEFAULT_STOP_SHARE
    #: True: nothing is sent; each dead letter gets a prediction. ``start`` then replays just these.
    dry_run: Flag = False

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if sum(each is not None for each in (self.letters, self.group, self.filter)) != 1:
            raise ValueError("select by one of letters, group and filter")
        return self

    def selected(self) -> Sequence[int] | Filter:
        if self.letters is not None:
            return sorted(set(self.letters))
        return Filter(fingerprint=self.group) if self.filter is None else self.filter

    def selection(self) -> Mapping[str, JsonValue]:
        return self.model_dump(mode="json", include={"letters", "group", "filter"}, exclude_none=True)


class EditLetter(Reasoned):
    """One dead letter goes back with another body."""

    #: The data of its event, whole; of a dead letter of the receiver, the webhook's body. Ids stay.
    body: Annotated[dict[str, JsonValue], STORABLE]
    #: True: nothing is sent; the dead letter gets a prediction. ``start`` then replays it with this body.
    dry_run: Flag = False


class UndoReplay(Reasoned):
    """Why the models that a replay set are taken back."""


class UndoView(BaseModel):
    """How far an undo is; the counts are users."""

    status: str
    actor: str
    reason: str
    reverted: int
    #: Their models stay as they are; each dead letter says why.
    kept: int
    waiting: int


class ReplayView(BaseModel):
    """A replay, as it is now."""

    id: UUID
    #: The order in which replays were created; not shown.
    number: Annotated[int, Field(exclude=True)] = 0
    status: Status
    #: Why it is paused, stopped or canceled.
    status_reason: str
    #: What holds it up now, such as a service that is away; empty: nothing does.
    trouble: str
    #: What the services that have dead letters of it for long wait for, such as a token that Replicate accepts.
    waiting_for: Sequence[str] = ()
    reason: str
    #: Whose token asked for it.
    actor: str
    selection: Mapping[str, Any]
    rate_per_second: float
    #: After how many dead letters each step ends.
    steps: Sequence[int]
    stop_when_failed_share: float
    #: How many dead letters have each outcome.
    outcomes: Mapping[Outcome, int]
    #: How many would have each, as far as a dry run has asked.
    predictions: Mapping[Outcome, int]
    #: How many dead letters with the same fingerprints came since, counted up to 1,000. They are not part of it.
    arrived_since: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    #: When the first of those dead letters was sent that have no outcome yet; not shown.
    sent_since: Annotated[datetime | None, Field(exclude=True)] = None
    #: Its queue; not shown.
    sent_queue: Annotated[str, Field(exclude=True)] = ""
    undo: UndoView | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def letters(self) -> int:
        """How many dead letters it has, without those that were skipped."""
        return sum(self.outcomes.values()) - self.outcomes.get(Outcome.SKIPPED, 0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ended(self) -> int:
        """How many of them have their outcome."""
        return Counts.of(self.outcomes).ended

    @property
    def arrived(self) -> str:
        """`arrived_since` in words."""
        return f"{self.arrived_since:,}{' or more' if self.arrived_since >= MOST_ARRIVED else ''}"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def note(self) -> str:
        """What to know of the predictions, and of dead letters that are underway."""
        notes = ((_ALONE, self.predictions and self.ended_at is None), (UNDERWAY, self.outcomes.get(Outcome.SENT)))
        return " ".join(note for note, applies in notes if applies)


class ReplayedLetterView(BaseModel):
    """A dead letter in a replay."""

    letter: int
    #: The order in which they go, but for those that were predicted to fail: these go last.
    position: int
    training_id: str | None
    user_id: str | None
    outcome: Outcome
    detail: str
    #: The training's stage, and the user's current model after it; the model before.
    stage: str | None
    generation: int | None
    model: str | None
    previous: str | None
    predicted: Outcome | None
    predicted_detail: str
    #: Whether it was sent with an edited body.
    edited: bool
    sent_at: datetime | None
    ended_at: datetime | None
    #: ``reverted``, or ``kept`` with the reason.
    undo: str | None
    undo_detail: str


class ReplayUpdate(BaseModel):
    """A replay as it is now, and what became of its dead letters since the event before."""

    replay: ReplayView
    #: Those that have their outcome since then, at most 200, the latest last. One may be sent twice.
    letters: Sequence[ReplayedLetterView] = ()
    #: How many more of the last 10,000 have; their outcomes are in the list of the replay's dead letters.
    omitted: int = 0


class ReplayedUserView(BaseModel):
    """What a replay did to a user's model or, as far as it was not sent yet, would do by the prediction."""

    #: The order in which their dead letters go; not shown.
    position: Annotated[int, Field(exclude=True)] = 0
    user_id: str
    #: How many dead letters of the replay are about this user.
    letters: int
    #: How many of them had, or would have, each outcome.
    outcomes: Mapping[Outcome, int]
    #: Whether the user has, or would have, another model.
    changes: bool
    #: The model before, and after it; null: none, or not known.
    before: str | None
    after: str | None


class UndonePreview(BaseModel):
    """What undoing a replay would do to a user's model, as it is now."""

    user_id: str
    #: The model that the replay set.
    model: str
    #: The model that the user would have again; null: none.
    to: str | None
    #: Why the user's model would stay as it is; empty: it would not.
    kept_because: str


class ReplayOfLetterView(BaseModel):
    """A replay of a dead letter, and its outcome."""

    #: The order in which replays were created; not shown.
    number: Annotated[int, Field(exclude=True)] = 0
    replay_id: UUID
    status: Status
    actor: str
    reason: str
    created_at: datetime
    outcome: Outcome
    detail: str
    predicted: Outcome | None
    predicted_detail: str
    sent_at: datetime | None
    ended_at: datetime | None
    #: The body that was sent instead of the dead letter's own; null: its own was.
    edited_body: str | None
