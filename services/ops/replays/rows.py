"""What is in a row? Pure: rows of replays to what the service knows, and what is to be written to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from services.ops.replays.messages import Letter
from services.ops.replays.plan import EFFECTS, Counts, Outcome, Rules, Status, in_words, why_not
from services.ops.replays.records import LetterRecord, ReplayRecord, UndoRecord
from shared.contract.events import ReplaySettled
from shared.contract.text import clean


class Row(Protocol):
    """A row, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


def from_selected(row: Row, *, is_dry_run: bool) -> dict[str, Any]:
    why = why_not(row["queue"]) or (None if row["status"] == "open" else not_open(row["status"], row["replay_id"]))
    if why is not None:
        return from_skipped(row["number"], why, row["training_id"], row["user_id"])
    return {
        "letter": row["number"],
        "training_id": row["training_id"],
        "user_id": row["user_id"],
        "outcome": Outcome.PLANNED if is_dry_run else Outcome.WAITING,
        "detail": "",
    }


def from_skipped(number: int, why: str, training_id: str | None = None, user_id: str | None = None) -> dict[str, Any]:
    return {
        "letter": number,
        "training_id": training_id,
        "user_id": user_id,
        "outcome": Outcome.SKIPPED,
        "detail": why,
    }


def not_open(status: str, replay_id: UUID | None) -> str:
    return f"it is in replay {replay_id}" if status == "replaying" else f"it is {status}"


def why_nothing(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no open letter is selected: there is nothing to replay"
    few = "; ".join(f"letter {row['letter']}: {row['detail']}" for row in rows[:5])
    return f"none of these letters can be replayed: {few}{'; …' if len(rows) > 5 else ''}"  # noqa: PLR2004


def to_rules(row: Row) -> Rules:
    return Rules(row["steps"], row["stop_share"], row["forgiven_ended"], row["forgiven_failed"])


def to_counts(rows: Sequence[Row]) -> Counts:
    by = {Outcome(row["outcome"]): row["count"] for row in rows}
    ends = (*EFFECTS, Outcome.FAILED, Outcome.CANCELED)
    return Counts(
        waiting=by.get(Outcome.WAITING, 0),
        sent=by.get(Outcome.SENT, 0),
        failed=by.get(Outcome.FAILED, 0),
        ended=sum(by.get(outcome, 0) for outcome in ends),
    )


def from_settled(replay_id: UUID, letter: int, event: ReplaySettled) -> dict[str, Any]:
    return {
        "replay_id": str(replay_id),
        "letter": letter,
        "outcome": event.effect,
        "detail": clean(in_words(event)),
        "user_id": event.user_id,
        "stage": event.stage,
        "generation": event.generation,
        "model": None if event.model is None else str(event.model),
        "previous": None if event.previous is None else str(event.previous),
    }


def to_letter(row: Row) -> Letter:
    return Letter(
        number=row["number"],
        queue=row["queue"],
        headers=json.loads(row["headers"]),
        content_type=row["content_type"],
        body=row["body"],
        event_type=row["event_type"],
        training_id=row["training_id"],
        error_code=row["error_code"],
        first_failed_at=row["first_failed_at"],
    )


def to_replay(row: Row) -> ReplayRecord:
    undone = _by_name(row["undone"])
    return ReplayRecord(
        id=row["id"],
        number=row["number"],
        created_at=row["created_at"],
        actor=row["actor"],
        reason=row["reason"],
        selection=json.loads(row["selection"]),
        rate_per_second=row["rate_per_second"],
        steps=row["steps"],
        stop_share=row["stop_share"],
        status=Status(row["status"]),
        status_reason=row["status_reason"],
        trouble=row["trouble"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        sent_since=row["sent_since"],
        outcomes={Outcome(name): count for name, count in _by_name(row["outcomes"]).items()},
        predictions={Outcome(name): count for name, count in _by_name(row["predictions"]).items()},
        arrived_since=row["arrived_since"],
        undo=None
        if row["undo_status"] is None
        else UndoRecord(
            row["undo_status"],
            row["undo_actor"],
            row["undo_reason"],
            undone.get("reverted", 0),
            undone.get("kept", 0),
            undone.get("waiting", 0),
        ),
    )


def _by_name(counts: str | None) -> dict[str, int]:
    return {} if counts is None else json.loads(counts)


def to_letter_record(row: Row) -> LetterRecord:
    return LetterRecord(
        position=row["position"],
        letter=row["letter"],
        training_id=row["training_id"],
        is_edited=row["is_edited"],
        outcome=Outcome(row["outcome"]),
        detail=row["detail"],
        user_id=row["user_id"],
        stage=row["stage"],
        generation=row["generation"],
        model=row["model"],
        previous=row["previous"],
        predicted=None if row["predicted"] is None else Outcome(row["predicted"]),
        predicted_detail=row["predicted_detail"],
        sent_at=row["sent_at"],
        ended_at=row["ended_at"],
        undo=row["undo"],
        undo_detail=row["undo_detail"],
    )
