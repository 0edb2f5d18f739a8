"""What is in a row? Pure: rows of schema `state` to what the service knows, and what is to be written to rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from services.state.asking import Target
from services.state.estimate import Learned, Report, Run, progress
from services.state.previous import Line
from services.state.records import HistoryRecord, ModelRecord, OutputRecord, TrainingRecord
from services.state.swap import (
    Changes,
    CurrentModel,
    Failure,
    Outgoing,
    Rival,
    Swap,
    Training,
    TrainingChange,
    Withdrawal,
)
from services.state.transitions import Stage
from shared.contract.envelope import CONTENT_TYPE, Envelope, decode
from shared.contract.errors import Malformed
from shared.contract.events import Cause, ProgressSource
from shared.contract.identity import ModelName, ModelRef

T = TypeVar("T")


class Row(Protocol):
    """A row, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as one parameter of a statement."""
    # What JSON has no word for (times, ids, model refs) it gets as text.
    return json.dumps(rows, default=str)


def from_training_change(change: TrainingChange) -> dict[str, Any]:
    code, reason = change.failure or (None, None)
    return {
        "ref": change.ref,
        "training_id": change.training_id,
        "stage": change.stage,
        "model": _text(change.model),
        "failure_code": code,
        "failure_reason": reason,
        "output": change.output,
        "trainer": _text(change.trainer),
        "trainer_version": change.trainer_version,
        "started_at": change.started_at,
        "completed_at": change.completed_at,
    }


def from_swap(swap: Swap) -> dict[str, Any]:
    return {
        "user_id": swap.user_id,
        "generation": swap.generation,
        "ref": swap.ref,
        "model": _text(swap.model),
        "trigger_word": swap.trigger_word,
        "previous": _text(swap.previous),
        "cause": swap.cause,
        "actor": swap.actor,
        "reason": swap.reason,
    }


def from_withdrawal(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "user_id": withdrawal.user_id,
        "generation": withdrawal.generation,
        "ref": withdrawal.ref,
        "model": None,
        "trigger_word": "",
        "previous": str(withdrawal.previous),
        "cause": Cause.WITHDRAWAL,
        "actor": withdrawal.actor,
        "reason": withdrawal.reason,
    }


def from_outgoing(outgoing: Outgoing) -> dict[str, Any]:
    envelope = outgoing.envelope
    return {
        "event_id": envelope.id,
        "user_id": outgoing.user_id,
        "generation": outgoing.generation,
        "routing_key": envelope.routing_key,
        "headers": envelope.headers(),
        "body": envelope.body().decode(),
    }


def from_report(report: Report) -> dict[str, Any]:
    return {
        "training_id": report.training_id,
        "claimed_ref": report.ref,
        "step": report.step,
        "total": report.total,
        "percent": report.percent,
        "source": report.source,
        "at": report.at,
    }


def to_training(row: Row) -> Training:
    return Training(
        ref=row["ref"],
        training_id=row["training_id"],
        user_id=row["user_id"],
        generation=row["generation"],
        destination=to_model_name(row["destination"]),
        trigger_word=row["trigger_word"],
        stage=Stage(row["stage"]),
        output=row["output"],
        trainer_version=row["trainer_version"],
        started_at=row["started_at"],
    )


def to_target(row: Row) -> Target:
    return Target(to_training(row), row["training_id"], _model_ref(row["model"]))


def to_current(row: Row) -> CurrentModel:
    return CurrentModel(row["current_generation"], row["current_ref"], _model_ref(row["current_model"]))


def _run(row: Row) -> Run:
    return Run(
        stage=Stage(row["stage"]),
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        percent=row["progress"],
        source=_maybe(ProgressSource, row["progress_source"]),
        reported_at=row["progress_at"],
        shown=row["shown"],
        learned=None if row["learned"] is None else Learned(*row["learned"]),
    )


def to_record(row: Row, moment: datetime) -> TrainingRecord:
    return TrainingRecord(
        number=row["number"],
        ref=row["ref"],
        training_id=row["training_id"],
        user_id=row["user_id"],
        generation=row["generation"],
        destination=to_model_name(row["destination"]),
        trainer=_maybe(_model_ref, row["trainer"]),
        trigger_word=row["trigger_word"],
        total_steps=row["total_steps"],
        stage=Stage(row["stage"]),
        step=row["step"],
        percent=row["progress"],
        progress_source=_maybe(ProgressSource, row["progress_source"]),
        shown=progress(_run(row), now=moment),
        model=_maybe(_model_ref, row["model"]),
        failure=Failure(row["failure_code"], row["failure_reason"]) if row["failure_code"] is not None else None,
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        updated_at=row["updated_at"],
        is_current=row["is_current"],
        activated_generation=row["activated_generation"],
    )


def to_output(row: Row) -> OutputRecord:
    return OutputRecord(
        number=row["number"],
        ref=row["ref"],
        training_id=row["training_id"],
        user_id=row["user_id"],
        stage=Stage(row["stage"]),
        destination=to_model_name(row["destination"]),
        trainer=_maybe(_model_ref, row["trainer"]),
        trainer_version=row["trainer_version"],
        model=_maybe(_model_ref, row["model"]),
        output=row["output"],
    )


def to_model(row: Row) -> ModelRecord:
    return ModelRecord(
        user_id=row["user_id"],
        model=_model_ref(row["model"]),
        generation=row["generation"],
        training_id=row["training_id"],
        ref=row["ref"],
        trigger_word=row["trigger_word"],
        activated_at=row["activated_at"],
    )


def planned_model(changes: Changes, at: datetime) -> ModelRecord:
    """The user's model as it would be."""
    (swap,), (outgoing, *_) = changes.swaps, changes.outbox
    return ModelRecord(
        user_id=swap.user_id,
        model=swap.model,
        generation=swap.generation,
        training_id=outgoing.envelope.event.training_id,
        ref=swap.ref,
        trigger_word=swap.trigger_word,
        activated_at=at,
    )


def planned_withdrawal(changes: Changes, at: datetime) -> HistoryRecord:
    """The line of the history as it would be."""
    (withdrawal,), (outgoing, *_) = changes.withdrawals, changes.outbox
    return HistoryRecord(
        generation=withdrawal.generation,
        model=None,
        previous_model=withdrawal.previous,
        training_id=outgoing.envelope.event.training_id,
        ref=withdrawal.ref,
        trigger_word="",
        cause=Cause.WITHDRAWAL,
        actor=withdrawal.actor,
        reason=withdrawal.reason,
        at=at,
    )


def to_line(row: Row) -> Line:
    return Line(
        cause=Cause(row["cause"]),
        ref=row["ref"],
        model=_maybe(_model_ref, row["model"]),
        previous=_maybe(_model_ref, row["previous_model"]),
    )


def to_history(row: Row) -> HistoryRecord:
    return HistoryRecord(
        generation=row["generation"],
        model=_maybe(_model_ref, row["model"]),
        previous_model=_maybe(_model_ref, row["previous_model"]),
        training_id=row["training_id"],
        ref=row["ref"],
        trigger_word=row["trigger_word"],
        cause=Cause(row["cause"]),
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
    )


def to_envelopes(rows: Sequence[Row]) -> tuple[dict[int, Envelope], dict[int, Malformed]]:
    """The events by their row's id, and why some can not be read: a version that writes them will publish them."""
    envelopes: dict[int, Envelope] = {}
    unreadable: dict[int, Malformed] = {}
    for row in rows:
        try:
            envelopes[row["id"]] = decode(json.loads(row["headers"]), CONTENT_TYPE, row["body"].encode())
        except Malformed as error:
            unreadable[row["id"]] = error
    return envelopes, unreadable


def to_made(text: str) -> tuple[ModelRef, UUID]:
    model, _, ref = text.partition(" ")
    return _model_ref(model), UUID(ref)


def to_rivals(text: str | None) -> list[Rival]:
    return [
        Rival(
            UUID(row["ref"]),
            to_model_name(row["destination"]),
            _maybe(datetime.fromisoformat, row["started_at"]),
            _maybe(datetime.fromisoformat, row["completed_at"]),
        )
        for row in json.loads(text or "[]")
    ]


def _maybe(parse: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else parse(text)


def _text(model: ModelRef | None) -> str | None:
    return None if model is None else str(model)


def to_model_name(text: str) -> ModelName:
    owner, _, name = text.partition("/")
    return ModelName(owner, name)


def _model_ref(text: str) -> ModelRef:
    name, _, version = text.rpartition(":")
    return ModelRef(*to_model_name(name), version)
