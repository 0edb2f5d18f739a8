"""
A training that somebody else describes: `modelswap trigger` says of one what its webhooks say. Pure.

This Replicate then answers about it as described, has the version that it made, and posts no webhook for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.simulator.faults import Faults
from services.simulator.job import NEVER, Life, Status
from services.simulator.training import Training

#: How long one runs whose end is not told: ten years. It has to be told, or it is canceled.
_UNTIL_TOLD_SECONDS: Final = 315_360_000.0


class ToldTraining(BaseModel):
    """Replicate's object for a training, as a webhook has it, with what that object does not say."""

    model_config = ConfigDict(frozen=True)

    #: ``owner/name``; empty where it does not matter, because no version is made.
    destination: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*)?$")] = ""
    #: The version of the destination that it made; empty for none.
    makes: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    model: str
    version: str
    input: dict[str, Any]
    status: Status
    output: Any = None
    error: str | None = None
    webhook: str | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None

    def training(self, training_id: str, *, api_url: str) -> Training:
        """The training that is described."""
        starts = NEVER if self.started_at is None else self._after(self.started_at)
        ends = _UNTIL_TOLD_SECONDS if self.completed_at is None else self._after(self.completed_at)
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
