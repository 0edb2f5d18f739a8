"""
Jobs: the common part of trainings and predictions. Pure.

    starting ──▶ processing ──▶ succeeded | failed | canceled
        └─────────────────────▶ aborted | canceled

A job's life is determined when it is created: when it starts, when and how it ends. So no task has to run for a job;
its state is computed from the time passed in. Simulated seconds count from its creation and pass `speed` times as fast
as real ones. Dates are real, because a caller compares them with its own clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from pydantic import JsonValue

NEVER = math.inf
_A_MOMENT: Final = 0.25  # simulated seconds


class Status(StrEnum):
    """The status of a job."""

    STARTING = "starting"  #: It waits for a machine.
    PROCESSING = "processing"  #: It runs.
    SUCCEEDED = "succeeded"  #: It ended with an output.
    FAILED = "failed"  #: It ended with an error.
    CANCELED = "canceled"  #: Its owner, or its deadline, stopped it while it ran or waited.
    ABORTED = "aborted"  #: Its deadline passed before it started.


@dataclass(frozen=True, slots=True)
class Life:
    """When a job starts and ends, in simulated seconds after its creation, and how."""

    starts: float
    ends: float
    outcome: Status

    @property
    def runs(self) -> bool:
        return self.starts < self.ends

    def cut(self, at: float, outcome: Status) -> Life:
        """Return the life ended early *at* this time; unchanged if it ends before."""
        if at >= self.ends:
            return self
        has_started = self.starts < at
        if outcome is Status.ABORTED and has_started:
            outcome = Status.CANCELED
        return Life(self.starts if has_started else NEVER, at, outcome)

    def status(self, seconds: float) -> Status:
        if seconds >= self.ends:
            return self.outcome
        return Status.PROCESSING if seconds >= self.starts else Status.STARTING


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training or a prediction."""

    id: str
    #: The trainer, or the predicting model.
    model: str
    version: str
    input: Mapping[str, JsonValue]
    created_at: datetime
    speed: float
    #: The URL under which the caller reached the simulator, for the URLs in its responses.
    api_url: str
    life: Life

    @property
    def last_moment(self) -> float:
        """The time just before its end, in simulated seconds."""
        return max(self.life.starts, self.life.ends - _A_MOMENT)

    def seconds(self, now: datetime) -> float:
        """Return the simulated seconds between its creation and *now*."""
        return (now - self.created_at).total_seconds() * self.speed

    def date(self, seconds: float) -> datetime:
        return self.created_at + timedelta(seconds=seconds / self.speed)

    def has_ended(self, seconds: float) -> bool:
        return seconds >= self.life.ends

    def cut(self, at: float, outcome: Status) -> Self:
        """Return the job ended early *at* this time."""
        return replace(self, life=self.life.cut(at, outcome))


def describe(
    job: Job, seconds: float, *, kind: str, output: JsonValue, logs: str, error: str | None
) -> dict[str, JsonValue]:
    """Return Replicate's object for *job* after *seconds*; *kind* (trainings, predictions) is the path of its urls."""
    life = job.life
    body: dict[str, JsonValue] = {
        "id": job.id,
        "model": job.model,
        "version": job.version,
        "input": dict(job.input),
        "logs": logs,
        "output": output,
        "data_removed": False,
        "error": error,
        "source": "api",
        "status": life.status(seconds),
        "created_at": milliseconds(job.created_at),
        "urls": {
            "web": f"https://replicate.com/p/{job.id}",
            "get": f"{job.api_url}/v1/{kind}/{job.id}",
            "cancel": f"{job.api_url}/v1/{kind}/{job.id}/cancel",
        },
    }
    if life.runs and seconds >= life.starts:
        body["started_at"] = nanoseconds(job.date(life.starts))
    if job.has_ended(seconds):
        body["completed_at"] = nanoseconds(job.date(life.ends))
        metrics: dict[str, JsonValue] = {"total_time": round(life.ends / job.speed, 6)}
        if life.runs:
            metrics["predict_time"] = round((life.ends - life.starts) / job.speed, 6)
        body["metrics"] = metrics
    return body


def encode(body: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def without_data(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the object after Replicate removed its data."""
    return body | {"input": {}, "logs": "", "output": None, "data_removed": True}


def milliseconds(date: datetime) -> str:
    return date.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def nanoseconds(date: datetime) -> str:
    """Format *date* with nanoseconds: Replicate mixes both precisions within one object."""
    return date.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")
