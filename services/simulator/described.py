"""
A training that the caller describes: `modelswap trigger` posts its webhooks itself. Pure.

The simulator's API then answers as described and has the training's version, but posts no webhooks for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from services.simulator.faults import Faults
from services.simulator.job import NEVER, Life, Status
from services.simulator.training import Training

#: Duration of a training without a described end: ten years. It ends when it is described again, or is canceled.
_OPEN_END_SECONDS: Final = 315_360_000.0


class DescribedTraining(BaseModel):
    """Replicate's training object as in a webhook, with destination and version, which that object lacks."""

    model_config = ConfigDict(frozen=True)

    #: ``owner/name``; may be empty if the training makes no version.
    destination: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*)?$")] = ""
    #: The version that it makes in its destination; empty for none.
    makes: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    model: str
    version: str
    input: dict[str, JsonValue]
    status: Status
    output: JsonValue = None
    error: str | None = None
    webhook: str | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None

    def training(self, training_id: str, *, api_url: str) -> Training:
        starts = NEVER if self.started_at is None else self._after(self.started_at)
        ends = _OPEN_END_SECONDS if self.completed_at is None else self._after(self.completed_at)
        outcome = Status.SUCCEEDED if self.completed_at is None else self.status
        error = {} if self.error is None else {"error": self.error}
        return Training(
            id=training_id,
            model=self.model,
            version=self.version,
            input=self.input,
            created_at=self.created_at,
            speed=1.0,
            api_url=api_url,
            life=Life(starts, ends, outcome),
            destination=self.destination,
            makes=self.makes,
            webhook=self.webhook or "",
            events=frozenset(),
            run_seconds=max(ends - starts, 1.0),
            faults=Faults.model_validate({"outcome": outcome, "output": self.output, **error}),
        )

    def _after(self, moment: datetime) -> float:
        return (moment - self.created_at).total_seconds()
