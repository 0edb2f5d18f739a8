"""Replicate's list of trainings, and which of ours are in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.ops.reconcile.trainings import Stage, Unfinished, Watched
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.training import Training, TrainingStatus
from shared.replicate.webhook_url import claim_in

#: How far Replicate's clock may be from ours, and how long state may take to ask it.
CLOCKS_OFF: Final = timedelta(minutes=1)
_START_TAKES: Final = timedelta(minutes=5)


@dataclass(slots=True)
class Listing:
    """Replicate's list of trainings, as far back as it was read."""

    #: Sign the addresses of our webhooks.
    secrets: Sequence[str] = field(default=(), repr=False)
    is_whole: bool = False
    _since: datetime | None = None
    _by_id: dict[str, Training] = field(default_factory=dict)
    _by_ref: dict[UUID, Training] = field(default_factory=dict)
    #: Trainings without a webhook address.
    _silent: list[Training] = field(default_factory=list)

    def add(self, trainings: Iterable[Training]) -> None:
        for training in trainings:
            self._by_id[training.id] = training
            if training.webhook is None:
                self._silent.append(training)
            elif claim := claim_in(training.webhook, self.secrets):
                self._by_ref[claim.ref] = training
            if training.created_at is not None:
                self._since = min(training.created_at, self._since or training.created_at)

    def goes_back_to(self, moment: datetime) -> bool:
        """Return whether it was read back to *moment*."""
        return self.is_whole or (self._since is not None and self._since < moment)

    def reaches(self, training: Unfinished) -> bool:
        """Return whether it would show *training*, if Replicate had it."""
        return self.goes_back_to(training.requested_at - CLOCKS_OFF)

    def find(self, training: Unfinished) -> Training | None:
        """Return the training itself: by its id, or by the webhook address that was signed for it."""
        if training.training_id is not None:
            return self._by_id.get(training.training_id)
        return self._by_ref.get(training.ref)

    def may_be(self, training: Unfinished) -> list[Training]:
        """
        Return those that may be *training*, whose id is not known.

        Replicate names the destination in the output only, so only one that has made a version there can be matched.
        """
        return [each for each in self._silent if _fits(training, each)]


def oldest(watched: Iterable[Watched]) -> datetime | None:
    """Return how far back Replicate's list must be read for these."""
    needed = [each.training.requested_at for each in watched if each.training.stage is not Stage.VERIFYING]
    return min(needed) - CLOCKS_OFF if needed else None


def _fits(training: Unfinished, found: Training) -> bool:
    if training.trainer is None or found.created_at is None or found.status != TrainingStatus.SUCCEEDED:
        return False
    begun, ended = training.requested_at - CLOCKS_OFF, training.requested_at + _START_TAKES
    # Replicate may run another version of the trainer than was requested.
    is_of_trainer = found.trainer == str(training.trainer.model)
    return is_of_trainer and begun <= found.created_at <= ended and _destination(found) == training.destination


def _destination(found: Training) -> ModelName | None:
    """Return the model that *found* made a version of, if its output names it in full."""
    match found.output:
        case {"version": str(version)}:
            ref = ModelRef.parse(version)
            return ref.model if ref else None
    return None
