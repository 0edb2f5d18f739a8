"""
The timeline of a training: each fact of it in the order of time, from the request to the last event. Pure.

Facts are kept for different times: the request, Replicate's times and the changes of the user's model for good, applied
events for 30 days, and published events for 7 days after they were published (`store.outbox`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from pydantic import Field, JsonValue

from services.state.transitions import Stage
from services.state.views import EXAMPLE, SwapView, TrainingView, View, example
from shared.contract.events import (
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
    UserEvent,
)
from shared.contract.identity import ModelRef
from shared.contract.values import Cause, Retries


class FactKind(StrEnum):
    """
    Kind of a fact in a training's timeline.

    - `requested`: it was registered.
    - `started`, `completed`: by Replicate's clock.
    - `reported`: an event of Replicate's was applied; `at` is when the webhook was received.
    - `recovered`: likewise, but found by polling Replicate, because the webhook never came.
    - `extraction_requested`: its model is looked for again.
    - `verified`: its model was found and passed the checks, which `detail` holds as evidence.
    - `not_verified`: no usable model was found.
    - `swapped`, `rolled_back`, `withdrawn`: its model became the user's current one, or was taken away.
    - `displaced`: another model became current instead of its own.
    - `published`: an event about it was confirmed by the broker.
    - `unpublished`: an event about it is committed, and not published yet; `at` is the time of the commit.
    - `failed`: it failed, and the event is not stored any more.
    """

    REQUESTED = "requested"
    STARTED = "started"
    COMPLETED = "completed"
    REPORTED = "reported"
    RECOVERED = "recovered"
    EXTRACTION_REQUESTED = "extraction_requested"
    VERIFIED = "verified"
    NOT_VERIFIED = "not_verified"
    SWAPPED = "swapped"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"
    DISPLACED = "displaced"
    PUBLISHED = "published"
    UNPUBLISHED = "unpublished"
    FAILED = "failed"


class FactView(View):
    """A fact in a training's timeline."""

    model_config = example(
        {
            "kind": "verified",
            "at": "2026-11-24T12:20:00Z",
            "seconds_since_previous": 0.4,
            "event": "model.ready.v1",
            "stage": "active",
            "detail": {
                "model": EXAMPLE.model,
                "evidence": {"shape": "version_field/model_ref", "checks": ["exists"], "seconds": 0.3},
            },
        }
    )

    kind: FactKind
    at: datetime
    seconds_since_previous: float | None = None
    """Seconds since the fact before it; null for the first."""
    event: str | None = None
    """The routing key of the event, if it is one."""
    event_id: str | None = None
    applied_at: datetime | None = None
    """When the event was committed."""
    retries: Retries | None = None
    """Of `verified`: how many attempts finding and checking the model took; null if the first one succeeded."""
    applied_retries: Retries | None = None
    """How many attempts applying the event took; null if the first one succeeded."""
    stage: Stage | None = None
    """The stage that the training moved to by it."""
    replay: str | None = None
    """Mark of the replay that the event came from: id of the replay, a colon, number of the dead letter."""
    detail: Mapping[str, JsonValue] = Field(default_factory=dict)
    """What the event says, such as a reason, an error or the evidence; of a change of the model, all about it."""


class TimelineView(View):
    """The timeline of a training."""

    items: Sequence[FactView]
    """Oldest first."""
    is_complete: bool
    """False if there were too many facts to return all."""


class AppliedRow(NamedTuple):
    """A row of the inbox."""

    event_id: str
    event: str
    occurred_at: datetime
    received_at: datetime
    stage: str | None
    detail: str | None


class StoredRow(NamedTuple):
    """A row of the outbox."""

    event_id: str
    event: str
    created_at: datetime
    published_at: datetime | None
    set_aside_reason: str | None


@dataclass(frozen=True, slots=True)
class LineRow:
    """A change of the user's model, and the next one."""

    line: SwapView
    next_at: datetime | None
    next_cause: Cause | None
    next_model: ModelRef | None


@dataclass(frozen=True, slots=True)
class Rows:
    """All that a timeline is made of."""

    applied: Sequence[AppliedRow]
    lines: Sequence[LineRow]
    stored: Sequence[StoredRow]


_BY_CAUSE: Final = {Cause.ROLLBACK: FactKind.ROLLED_BACK, Cause.WITHDRAWAL: FactKind.WITHDRAWN}


def published_ids(training: TrainingView, lines: Iterable[LineRow]) -> list[str]:
    """Return the ids of the public events of state about *training*: they follow from the facts that they state."""
    if training.training_id is None:
        return []
    of_lines = {
        (ModelWithdrawn if each.line.reference is None else ModelActivated, each.line.generation) for each in lines
    }
    kinds: set[tuple[type[UserEvent], int]] = {*of_lines, (ModelSuperseded, training.generation)}
    return [
        str(kind.model_construct(training_id=training.training_id, user_id=training.user_id, generation=generation).id)
        for kind, generation in kinds
    ]


def timeline(training: TrainingView, rows: Rows, *, limit: int) -> TimelineView:
    """Return the timeline of *training*, of which each kind of *rows* holds at most *limit*."""
    facts = [*_of_training(training), *map(_of_applied, rows.applied), *map(_of_stored, rows.stored)]
    for each in rows.lines:
        facts += _of_line(each)
    if training.failure is not None and training.stage not in {fact.stage for fact in facts}:
        detail: dict[str, JsonValue] = {"error": training.failure.code, "detail": training.failure.reason}
        facts.append(FactView(kind=FactKind.FAILED, at=training.updated_at, stage=training.stage, detail=detail))
    order = list(FactKind)
    facts.sort(key=lambda fact: (fact.at, order.index(fact.kind)))
    for before, after in pairwise(facts):
        after.seconds_since_previous = (after.at - before.at).total_seconds()
    most = max(len(rows.applied), len(rows.lines), len(rows.stored))
    return TimelineView(items=facts, is_complete=most < limit)


def _of_training(training: TrainingView) -> Iterator[FactView]:
    yield FactView(kind=FactKind.REQUESTED, at=training.requested_at)
    if training.started_at is not None:
        yield FactView(kind=FactKind.STARTED, at=training.started_at)
    if training.completed_at is not None:
        yield FactView(kind=FactKind.COMPLETED, at=training.completed_at)


def _of_applied(row: AppliedRow) -> FactView:
    event_id, _, replay = row.event_id.partition(" ")
    detail = json.loads(row.detail) if row.detail else {}
    applied_retries, retries = detail.pop("retries", None), detail.get("evidence", {}).pop("retries", None)
    if row.event == ModelReady.key:
        kind = FactKind.VERIFIED
    elif row.event == ExtractionFailed.key:
        kind = FactKind.NOT_VERIFIED
    else:
        kind = FactKind.RECOVERED if detail.pop("recovered", False) else FactKind.REPORTED
    return FactView(
        kind=kind,
        at=row.occurred_at,
        event=row.event,
        event_id=event_id,
        applied_at=row.received_at,
        retries=retries,
        applied_retries=applied_retries,
        stage=None if row.stage is None else Stage(row.stage),
        replay=replay or None,
        detail=detail,
    )


def _of_line(row: LineRow) -> Iterator[FactView]:
    yield FactView(
        kind=_BY_CAUSE.get(row.line.cause, FactKind.SWAPPED),
        at=row.line.at,
        detail=row.line.model_dump(mode="json", include={"generation", "cause", "actor", "reason", "reference"}),
    )
    # A withdrawal of its own model is the next line itself.
    if row.line.reference is not None and row.next_at is not None and row.next_cause is not Cause.WITHDRAWAL:
        by = None if row.next_model is None else str(row.next_model)
        yield FactView(kind=FactKind.DISPLACED, at=row.next_at, detail={"by": by, "cause": row.next_cause})


def _of_stored(row: StoredRow) -> FactView:
    if row.event.startswith("extraction.requested."):
        return FactView(kind=FactKind.EXTRACTION_REQUESTED, at=row.created_at, event=row.event, event_id=row.event_id)
    detail: dict[str, JsonValue] = {} if row.set_aside_reason is None else {"set_aside": row.set_aside_reason}
    kind = FactKind.UNPUBLISHED if row.published_at is None else FactKind.PUBLISHED
    at = row.published_at or row.created_at
    return FactView(kind=kind, at=at, event=row.event, event_id=row.event_id, applied_at=row.created_at, detail=detail)
