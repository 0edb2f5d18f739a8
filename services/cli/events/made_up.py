"""
Made-up public events, for the tests of subscribers. Pure.

The events of one user are consistent: each `model.activated`, `.withdrawn` or `.superseded` has the next generation and
its own training; `model.ready` and `extraction.failed` belong to the next training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from services.cli.choices import Trigger
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import (
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.values import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What the events of one user share."""

    user_id: str
    #: The training of the first event; later ones append their generation.
    training_id: str
    destination: ModelName
    #: The version of the first model; later ones are made up.
    version: str | None
    #: Of the first event.
    generation: int
    #: The reason of a failed extraction.
    error: str

    def events(self, triggers: Sequence[Trigger]) -> list[Event]:
        """Return the events in the order in which they would happen."""
        generation = self.generation
        current: ModelRef | None = None
        events: list[Event] = []
        for trigger in triggers:
            event = self._event(trigger, generation, current)
            events.append(event)
            if isinstance(event, ModelActivated | ModelWithdrawn):
                current = event.model if isinstance(event, ModelActivated) else None
            if trigger not in (Trigger.MODEL_READY, Trigger.EXTRACTION_FAILED):
                generation += 1
        return events

    def _event(self, trigger: Trigger, generation: int, current: ModelRef | None) -> Event:
        name = self.training_id if generation == self.generation else f"{self.training_id}-{generation}"
        model = self._model(generation)
        about: dict[str, object] = {
            "training_id": name,
            "ref": uuid5(NAMESPACE_URL, f"modelswap:trigger:{name}"),
            "user_id": self.user_id,
        }
        swap = {**about, "generation": generation}
        match trigger:
            case Trigger.MODEL_READY:
                evidence = Evidence(shape="version", checks=("exists",), seconds=1.0)
                return ModelReady.model_validate({**about, "model": model, "evidence": evidence})
            case Trigger.EXTRACTION_FAILED:
                return ExtractionFailed.model_validate({**about, "error": "no_version", "detail": self.error})
            case Trigger.MODEL_ACTIVATED:
                return ModelActivated.model_validate(
                    {**swap, "model": model, "previous": current, "trigger_word": "TOK"}
                )
            case Trigger.MODEL_WITHDRAWN:
                return ModelWithdrawn.model_validate({**swap, "previous": current or model})
            case Trigger.MODEL_SUPERSEDED:
                return ModelSuperseded.model_validate({**swap, "model": model, "current_generation": generation + 1})
        raise ValueError(f"{trigger} is not a public event")

    def _model(self, generation: int) -> ModelRef:
        named = self.version if generation == self.generation else None
        version = named or hashlib.sha256(f"{self.training_id}:{generation}".encode()).hexdigest()
        return ModelRef(*self.destination, version)


def envelope(event: Event, *, now: datetime) -> Envelope:
    return replace(wrap(event, source="trigger", now=now), is_made_up=True)
