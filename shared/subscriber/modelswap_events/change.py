"""A change of a user's model, as `Models` hands it out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.contract.envelope import Envelope
from shared.contract.events import ModelActivated, ModelWithdrawn
from shared.contract.identity import ModelRef


@dataclass(frozen=True, slots=True)
class Change:
    """The model of a user from now on."""

    user_id: str
    #: Rises with every change of this user's model.
    generation: int
    #: ``str(model)`` is ``owner/name:version``. None: it was withdrawn, and the user has no model any more.
    model: ModelRef | None
    #: The word that makes the model draw its subject; empty if there is none.
    trigger_word: str = ""
    #: Published by `modelswap trigger` to test subscribers; no model was changed. It holds back no real change.
    is_made_up: bool = False

    @property
    def is_withdrawn(self) -> bool:
        return self.model is None


def change_in(envelope: Envelope) -> Change | None:
    """Return the change that an event states; None if it changes no user's model."""
    match envelope.event:
        case ModelActivated() as event:
            return Change(
                event.user_id, event.generation, event.model, event.trigger_word, is_made_up=envelope.is_made_up
            )
        case ModelWithdrawn() as event:
            return Change(event.user_id, event.generation, None, is_made_up=envelope.is_made_up)
    return None
