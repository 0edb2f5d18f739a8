"""The screen of a search: what was found, each with its page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.ops.console.answers import HitAnswer
from services.ops.console.views.formats import short_models
from services.ops.console.views.trainings import training_path, user_path

_MODEL: Final = "model"
_USER: Final = "user"


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found; without an address there is no page of it alone."""

    kind: str
    name: str
    address: str | None
    stage: str | None = None
    detail: str = ""


def hit_of(hit: HitAnswer) -> Hit:
    if hit.kind == _USER:
        detail = f"current model {short_models(hit.reference)}" if hit.reference else "no model yet"
        return Hit(hit.kind, hit.name, user_path(hit.name), detail=detail)
    if hit.kind == _MODEL:
        if hit.user_id is None:
            return Hit(hit.kind, hit.name, None, detail="several users train to it")
        return Hit(hit.kind, hit.name, user_path(hit.user_id), detail=f"of user {hit.user_id}")
    detail = f"of user {hit.user_id}" + (f", model {short_models(hit.reference)}" if hit.reference else "")
    return Hit(hit.kind, hit.name, training_path(hit.name), hit.stage, detail)


def page_of(text: str, found: Sequence[Hit], *, is_complete: bool) -> str | None:
    """Return the page to go to at once: that of the only hit, or of the training or user whose id is *text*."""
    exact = [each for each in found if each.name == text and each.kind != _MODEL]
    if len(exact) == 1:
        return exact[0].address
    return found[0].address if is_complete and len(found) == 1 else None
