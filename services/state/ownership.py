"""
Checks that a model which was only looked up belongs to its training. Pure.

A model is looked up in Replicate's list of versions when the training's output names no version. Then another training
at the same destination may have made it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

from services.state.changes import Loaded, Training
from shared.contract.errors import PermanentError, TransientError
from shared.contract.identity import ModelRef
from shared.contract.values import Evidence

#: What an operator can do about a model that was only looked up.
_BY_HAND: Final = (
    "If you know that it is this training's, set evidence.looked_up to false in the dead letter "
    "(modelswap dead-letters edit), which replays it"
)


class DestinationMismatch(PermanentError):
    """The model is not at its training's destination. It may be another user's."""

    code = "destination_mismatch"


class MadeByAnother(PermanentError):
    """The model was only looked up, and another training made it."""

    code = "model_of_another_training"


class DestinationShared(PermanentError):
    """The model was only looked up, and several users train to its destination."""

    code = "destination_shared"


class MayBeAnothers(PermanentError):
    """The model was only looked up, and another training may have made it."""

    code = "model_may_be_anothers"


class MayBeUnregistered(TransientError):
    """
    The same, where the other training is not registered.

    It may be one of ours whose id is not known yet, because Replicate's answer to its creation was lost: a webhook
    binds it soon, or the reconciler within an hour or two. So this takes the whole ladder before it is a dead letter.
    """

    code = MayBeAnothers.code


def mismatch(training: Training, model: ModelRef) -> PermanentError | None:
    """Return an error if *model* is not at the training's destination."""
    if model.model == training.destination:
        return None
    return DestinationMismatch(f"{model} is not at the training's destination {training.destination}")


def doubt(
    training: Training,
    model: ModelRef,
    evidence: Evidence,
    loaded: Loaded,
    made: Collection[tuple[ModelRef, UUID]],
) -> PermanentError | MayBeUnregistered | None:
    """
    Return why the looked-up *model* may not be this training's, or None.

    *made*: which training made which model, including the batch so far.
    """
    if training.destination in loaded.shared:
        # Another user's training may have made it before any event of it arrived.
        return DestinationShared(
            f"the output names no version, and several users train to {training.destination}: "
            f"it is unknown whose {model} is. {_BY_HAND}"
        )
    if any(each == model and ref != training.ref for each, ref in made):
        return MadeByAnother(f"{model} was made by another training, and this one's output does not name it")
    if strangers := set(evidence.rivals or ()).difference(loaded.registered):
        return MayBeUnregistered(
            f"the output does not name {model}, and training {min(strangers)}, which is not registered here, may "
            f"have made it. {_BY_HAND}"
        )
    if evidence.made_at is None:
        return None
    for rival in loaded.rivals:
        is_other = rival.destination == training.destination and rival.ref != training.ref
        if is_other and rival.may_have_made(evidence.made_at):
            return MayBeAnothers(
                f"the output does not name {model}, and training {rival.ref} may have made it as well. When that one "
                f"has its model, retry: POST /v1/trainings/{training.training_id or training.ref}/retry-extraction"
            )
    return None
