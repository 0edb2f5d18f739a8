"""Combines what the texts of an output name to one model and one version, or refuses. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.extractor.errors import BY_HAND, NoModel, shown
from shared.contract.identity import ModelName

_SHORT: Final = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one text names; model or version may be missing, and the version may be a prefix."""

    model: ModelName | None
    version: str | None
    shape: str


def agreed_model(answers: Sequence[Answer], destination: ModelName | None) -> ModelName | None:
    models = sorted({answer.model for answer in answers if answer.model})
    strangers = [model for model in models if destination and model != destination]
    if strangers:
        raise NoModel(
            f"the output names {strangers[0]}, but the training's destination is {destination}. "
            "Find out whose training this is before replaying",
            code="destination_mismatch",
        )
    if len(models) > 1:
        raise NoModel(f"the output names several models: {_some(models)}. {BY_HAND}", code="ambiguous")
    return destination or (models[0] if models else None)


def agreed_version(answers: Sequence[Answer]) -> str | None:
    versions = sorted({answer.version for answer in answers if answer.version}, key=len, reverse=True)
    if not all(versions[0].startswith(version) for version in versions):
        raise NoModel(f"the output names several versions: {_some(sorted(versions))}. {BY_HAND}", code="ambiguous")
    return versions[0] if versions else None


def _some(names: Sequence[object]) -> str:
    first, second, *others = map(str, names)
    return f"{first}, {second} …" if others else f"{first}, {second}"


def refuse_trainer(
    model: ModelName | None,
    version: str | None,
    destination: ModelName | None,
    trainer: str | None,
    trainer_version: str | None,
) -> None:
    """Refuse an output that names the trainer itself, which must never become a user's model."""
    if (version and _is_same_version(version, trainer_version)) or (destination is None and is_same(model, trainer)):
        raise NoModel(
            f"the output names the trainer itself ({shown(trainer or trainer_version)}), not what it made. {BY_HAND}",
            code="trainer_version",
        )


def _is_same_version(version: str, name: str | None) -> bool:
    """Return whether both name the same version; either may be a prefix, *name* also a whole model ref."""
    known = (name or "").strip().lower().rpartition(":")[2]
    return known.startswith(version) or (_SHORT.fullmatch(known) is not None and version.startswith(known))


def is_same(model: ModelName | None, name: str | None) -> bool:
    return model is not None and name is not None and str(model) == name.strip().lower()
