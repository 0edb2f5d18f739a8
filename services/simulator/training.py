"""A training at a given time: status, logs, output and webhook bodies. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from pydantic import JsonValue

from services.simulator.faults import Faults, WebhookEvent, filled
from services.simulator.job import NEVER, Job, Life, Status, describe, encode, without_data
from services.simulator.logs import Log, steps_of
from services.simulator.models import Version

#: The part of its run after which a training fails or is canceled.
_STOPPED_AT: Final = 0.41
#: The part of the run after which the weights are uploaded; the version follows at the end.
_WEIGHTS_AT: Final = 0.98
_SOMEBODY_ELSE: Final = "somebody-else"
_TRACEBACK: Final = """\
Traceback (most recent call last):
  File "/src/train.py", line 207, in train
RuntimeError: %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Job):
    """One training, from its first moment to its last."""

    destination: str
    #: The id of the version that it makes if it succeeds; empty for none.
    makes: str
    #: Its webhook URL; empty for none.
    webhook: str
    events: frozenset[WebhookEvent]
    run_seconds: float
    faults: Faults

    @property
    def makes_model(self) -> str:
        """The model that its version belongs to."""
        if self.faults.foreign_version:
            return f"{_SOMEBODY_ELSE}/{self.destination.split('/')[1]}"
        return self.destination

    @property
    def output_at(self) -> float:
        """When its first output, the weights, is there, in simulated seconds; `NEVER` if it does not succeed."""
        return self.life.starts + self.run_seconds * _WEIGHTS_AT if self.life.outcome is Status.SUCCEEDED else NEVER

    def log_position(self, seconds: float) -> int:
        return self._log().position(self._share(seconds))

    def logs(self, seconds: float) -> str:
        if seconds < self.life.starts:
            return ""
        text = self._log().text(self._share(min(seconds, self.life.ends)))
        return text + _TRACEBACK % self.faults.error if self._has_failed(seconds) else text

    def output(self, seconds: float) -> JsonValue:
        weights = f"https://replicate.delivery/xezq/{self.id}/trained_model.tar"
        if seconds < self.output_at:
            return None
        if not self.has_ended(seconds):
            return {"weights": weights}
        if self.faults.overrides_output:
            values = {"version": self.makes, "destination": self.destination, "weights": weights}
            return filled(self.faults.output, values)
        return {"version": f"{self.makes_model}:{self.makes}", "weights": weights}

    def made(self, now: datetime) -> Version | None:
        there_at = self.life.ends + self.faults.version_late_seconds
        if not self.makes or self.life.outcome is not Status.SUCCEEDED or self.seconds(now) < there_at:
            return None
        return Version(
            model=self.makes_model,
            id=self.makes,
            created_at=self.date(there_at),
            has_prompt=not self.faults.no_prompt,
            behaviour=self.faults.prediction,
        )

    def describe(self, seconds: float, *, kind: str = "trainings") -> dict[str, JsonValue]:
        """Return Replicate's object for it, as answered by GET."""
        return self._shown(self._describe(seconds, kind), seconds)

    def list_item(self, seconds: float) -> dict[str, JsonValue]:
        """Return Replicate's object for it as its list shows it: without the log, which is long to write."""
        body = self._shown(self._describe(seconds, "trainings", logs=""), seconds)
        del body["logs"]
        return body

    def _shown(self, body: dict[str, JsonValue], seconds: float) -> dict[str, JsonValue]:
        """Return *body* as Replicate's API shows it, which may have removed the data of an ended training."""
        return without_data(body) if self.faults.data_removed and self.has_ended(seconds) else body

    def webhook_body(self, seconds: float) -> bytes:
        """Return the body of a webhook, as it is signed; it is posted before any data is removed."""
        return encode(self._describe(seconds, "predictions" if not self.has_ended(seconds) else "trainings"))

    def with_orders(self, more: Faults, *, at: float) -> Training:
        """Return the training with *more* faults; if they include an outcome, it ends *at* this time."""
        ordered = replace(self, faults=self.faults.with_orders(more))
        ends_now = more.outcome is not Status.SUCCEEDED
        return ordered.cut(at, more.outcome) if ends_now else ordered

    def _describe(self, seconds: float, kind: str, logs: str | None = None) -> dict[str, JsonValue]:
        body = describe(
            self,
            seconds,
            kind=kind,
            output=self.output(seconds),
            logs=self.logs(seconds) if logs is None else logs,
            error=self.faults.error if self._has_failed(seconds) else None,
        )
        if self.webhook:
            body |= {"webhook": self.webhook, "webhook_events_filter": [*sorted(self.events)]}
        return body

    def _has_failed(self, seconds: float) -> bool:
        return self.life.status(seconds) is Status.FAILED

    def _share(self, seconds: float) -> float:
        return max(0.0, seconds - self.life.starts) / self.run_seconds

    def _log(self) -> Log:
        return Log(
            steps=steps_of(self.input),
            trigger_word=str(self.input.get("trigger_word", "TOK")),
            started_at=self.date(self.life.starts),
            run_seconds=self.run_seconds,
            min_bytes=self.faults.huge_logs,
        )


def planned_life(outcome: Status, *, boot_seconds: float, run_seconds: float) -> Life:
    match outcome:
        case Status.ABORTED:
            return Life(NEVER, boot_seconds, outcome)
        case Status.FAILED | Status.CANCELED:
            return Life(boot_seconds, boot_seconds + run_seconds * _STOPPED_AT, outcome)
    return Life(boot_seconds, boot_seconds + run_seconds, Status.SUCCEEDED)
