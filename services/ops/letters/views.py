"""Requests and answers of the API of dead letters. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.ops.requests import Name, Number, Reasoned, Request, Until, fields
from shared.contract.answers import Flag, Moment
from shared.contract.checked import Checked
from shared.contract.errors import PermanentError

_MOST_NAMED: Final = 10_000


class LetterStatus(StrEnum):
    """The status of a dead letter."""

    #: Needs an operator.
    OPEN = "open"
    #: Part of a running replay.
    REPLAYING = "replaying"
    #: A replay of it succeeded, or its training ended by another event.
    RESOLVED = "resolved"
    #: An operator decided not to repair it.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Move:
    """A change of status that operators ask for."""

    was: LetterStatus
    to: LetterStatus
    #: Its name in the audit.
    action: str


DROP: Final = Move(LetterStatus.OPEN, LetterStatus.DROPPED, "dead_letter.dropped")
RESTORE: Final = Move(LetterStatus.DROPPED, LetterStatus.OPEN, "dead_letter.restored")


class NoLetter(PermanentError):
    """There is no such dead letter."""

    code = "no_letter"

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no dead letter {number}")


class WrongStatus(PermanentError):
    """A dead letter cannot be dropped or restored, as it is now."""

    code = "wrong_status"


class Filter(Request):
    """Which dead letters. All that is given must hold."""

    status: LetterStatus | None = None
    #: Where it was consumed.
    queue: Name | None = None
    error_code: Name | None = None
    error_class: Name | None = None
    training_id: Name | None = None
    user_id: Name | None = None
    event_type: Name | None = None
    fingerprint: Name | None = None
    #: Failed last at this time or later.
    since: Moment | None = None
    #: Failed last before this time.
    until: Until = None
    #: Words, or beginnings of words, in the error's class and text.
    text: Name | None = None


class Drop(Reasoned):
    """Why something is dropped or restored."""


def selective(given: Filter) -> Filter:
    """
    Let *given* pass if it says which dead letters.

    Raises:
        ValueError: if it means all of them.

    """
    if not given.model_dump(exclude_none=True, exclude={"status"}):
        raise ValueError("selects no dead letters: give at least one of queue, fingerprint, since and so on")
    return given


def _of_any_status(given: Filter) -> Filter:
    # Open dead letters are dropped, and dropped ones restored: another status selects nothing.
    if given.status is not None:
        raise ValueError("has a status: open dead letters are dropped, and dropped ones restored, so leave it out")
    return selective(given)


#: JSON Schema of what `selective` requires.
SELECTIVE: Final = fields(*(name for name in Filter.model_fields if name != "status"))
#: Open dead letters are dropped, and dropped ones restored: a status is left out.
_STATUS_NONE: Final = {"status": {"type": "null"}}


class DropMany(Drop):
    """Which dead letters are dropped or restored, and why. A filter needs at least one field."""

    model_config = ConfigDict(json_schema_extra={"oneOf": fields("letters", "filter")})

    #: Their numbers; or:
    letters: Annotated[tuple[Number, ...], Field(min_length=1, max_length=_MOST_NAMED)] | None = None
    #: what they have in common.
    filter: Annotated[Filter, Checked(_of_any_status, anyOf=SELECTIVE, properties=_STATUS_NONE)] | None = None
    #: True: nothing is changed; the answer says what would be.
    dry_run: Flag = False
    #: Only dead letters up to this number, such as `newest` of a dry run: just those that it looked at.
    up_to: Number | None = None

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if (self.letters is None) == (self.filter is None):
            raise ValueError("select by one of letters and filter")
        return self

    def selected(self) -> Sequence[int] | Filter:
        return self.filter or sorted(set(self.letters or ()))


class Facet(StrEnum):
    """A field of dead letters whose values are counted."""

    STATUS = "status"
    QUEUE = "queue"
    ERROR_CODE = "error_code"
    ERROR_CLASS = "error_class"
    EVENT_TYPE = "event_type"
    USER_ID = "user_id"
    TRAINING_ID = "training_id"


class LetterLine(BaseModel):
    """One dead letter among others."""

    number: int
    status: LetterStatus
    queue: str
    event_type: str | None
    event_id: str | None
    training_id: str | None
    user_id: str | None
    error_code: str
    error_class: str
    error_text: str
    attempts: int
    #: How often a replay of it failed again.
    returns: int
    first_failed_at: datetime
    last_failed_at: datetime
    archived_at: datetime
    status_at: datetime
    #: Why it is resolved, if no replay resolved it; empty otherwise.
    status_reason: str = ""
    fingerprint: str
    #: The replay that has it now, or had it last.
    replay_id: UUID | None
    body_bytes: int


class LetterView(LetterLine):
    """A dead letter, whole."""

    exchange: str
    routing_key: str
    content_type: str | None
    headers: Mapping[str, Any]
    #: The trace in which it failed.
    trace_id: str | None = None
    #: Byte for byte; of a larger body than was asked for, its beginning.
    body_base64: str
    #: The same as text; null where it is none.
    body_text: str | None
    traceback: str


class ValueCount(BaseModel):
    """A value that dead letters have, and how many have it."""

    value: str
    letters: int


class Suggestions(BaseModel):
    """What the dead letters that a filter finds have in common, to narrow it down."""

    #: How many dead letters were looked at: the newest ones.
    letters: int
    #: Whether these are all that the filter finds.
    is_complete: bool
    #: The most frequent values of each field, the most frequent first.
    values: Mapping[Facet, Sequence[ValueCount]]


class GroupView(BaseModel):
    """Dead letters that most likely have one cause."""

    fingerprint: str
    queue: str
    error_code: str
    error_class: str
    #: Of the newest dead letter.
    error_text: str
    open: int
    replaying: int
    resolved: int
    dropped: int
    #: How many of them failed in the last hour, day and week.
    last_hour: int
    last_day: int
    last_week: int
    #: How many failed in each of the last 24 hours, the oldest first.
    hourly: Sequence[int] = ()
    #: How many have a number above `seen`; 0 where none was given.
    new: int = 0
    first_failed_at: datetime
    last_failed_at: datetime
    #: The newest dead letter, as an example, and the oldest.
    newest: int
    oldest: int


class Changed(BaseModel):
    """How many dead letters a drop or a restore changed, or would change."""

    #: How many were changed.
    letters: int
    #: How many stay as they are, by the status that they have.
    unchanged: Mapping[LetterStatus, int] = {}
    #: The highest number among all dead letters that were looked at; null: there is none.
    newest: int | None = None


class LetterCounts(BaseModel):
    """How many dead letters have each status."""

    open: int = 0
    replaying: int = 0
    resolved: int = 0
    dropped: int = 0
