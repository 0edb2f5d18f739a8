"""What Replicate's list of trainings shows, as far back as it was read. Pure."""

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
    """What Replicate's list shows, as far back as it was read."""

    #: Sign the addresses of our webhooks.
    secrets: Sequence[str] = field(default=(), repr=False)
    is_whole: bool = False
    _since: datetime | None = None
    _by_id: dict[str, Training] = field(default_factory=dict)
    _by_ref: dict[UUID, Training] = field(default_factory=dict)
    #: Those that do not say where their webhooks go.
    _silent: list[Training] = field(default_factory=list)

    def add(self, trainings: Iterable[Training]) -> None:
        """Read one page more."""
        for training in trainings:
            self._by_id[training.id] = training
            if training.webhook is None:
                self._silent.append(training)
            elif claim := claim_in(training.webhook, self.secrets):
                self._by_ref[claim.ref] = training
            if training.created_at is not None:
                self._since = min(training.created_at, self._since or training.created_at)

    def goes_back_to(self, moment: datetime) -> bool:
        """Was it read as far back as that?"""
        return self.is_whole or (self._since is not None and self._since < moment)

    def reaches(self, training: Unfinished) -> bool:
        """Would it show *training*, if Replicate had it?"""
        return self.goes_back_to(training.requested_at - CLOCKS_OFF)

    def find(self, training: Unfinished) -> Training | None:
        """The training itself: by its id, or by the address that we signed for it."""
        if training.training_id is not None:
            return self._by_id.get(training.training_id)
        return self._by_ref.get(training.ref)

    def may_be(self, training: Unfinished) -> list[Training]:
        """
        Those that may be *training*, whose id nobody knows.

        Replicate names the destination in the output only, so it is one that has made a version there.
        """
        return [each for each in self._silent if _fits(training, each)]


def oldest(watched: Iterable[Watched]) -> datetime | None:
    """How far back Replicate's list is to be read for these."""
    needed = [each.training.requested_at for each in watched if each.training.stage is not Stage.VERIFYING]
    return min(needed) - CLOCKS_OFF if needed else None


def _fits(training: Unfinished, found: Training) -> bool:
    if training.trainer is None or found.created_at is None or found.status != TrainingStatus.SUCCEEDED:
        return False
    begun, ended = training.requested_at - CLOCKS_OFF, training.requested_at + _START_TAKES
    # Replicate may run another version of the trainer than the one that was asked for.
    is_of_trainer = found.trainer == str(training.trainer.model)
    return is_of_trainer and begun <= found.created_at <= ended and _destination(found) == training.destination


def _destination(found: Training) -> ModelName | None:
    """The model that *found* made a version of, where its output says so in full."""
    match found.output:
        case {"version": str(version)}:
            ref = ModelRef.parse(version)
            return ref.model if ref else None
    return None
