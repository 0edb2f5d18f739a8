"""What a search found, each with its page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel

from services.ops.console.views.formats import short_models
from services.ops.console.views.trainings import training_path, user_path


class Hit(BaseModel):
    """A ``training``, a ``user`` or a ``model`` that state found."""

    kind: str
    name: str
    user_id: str | None = None
    stage: str | None = None
    reference: str | None = None

    @property
    def address(self) -> str | None:
        """The address of its page; None: there is no page of it alone."""
        match self.kind:
            case "user":
                return user_path(self.name)
            case "model":
                return None if self.user_id is None else user_path(self.user_id)
        return training_path(self.name)

    @property
    def detail(self) -> str:
        model = short_models(self.reference or "")
        match self.kind:
            case "user":
                return f"current model {model}" if model else "no model yet"
            case "model":
                return "several users train to it" if self.user_id is None else f"of user {self.user_id}"
        return f"of user {self.user_id}" + (f", model {model}" if model else "")


class LetterHit(NamedTuple):
    """A dead letter that was found."""

    name: str
    address: str
    detail: str
    kind: str = "dead letter"
    stage: str | None = None


class SearchAnswer(BaseModel):
    """What state found."""

    items: Sequence[Hit]
    is_complete: bool


def page_of(text: str, found: Sequence[Hit | LetterHit], *, is_complete: bool) -> str | None:
    """Return the page to go to at once: that of the only hit, or of the training or user whose id is *text*."""
    exact = [each for each in found if each.name == text and each.kind != "model"]
    if len(exact) == 1:
        return exact[0].address
    return found[0].address if is_complete and len(found) == 1 else None
