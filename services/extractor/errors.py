"""Errors of the extractor: no model was found, or the found one is not verified. Pure."""

from __future__ import annotations

from typing import Final

from pydantic import JsonValue

from shared.contract.errors import PermanentError, TransientError
from shared.contract.identity import ModelName

#: Advice for the operator, at the end of a message.
BY_HAND: Final = "Look at the training at Replicate before replaying"
_SHOWN_CHARACTERS: Final = 80


class NoModel(PermanentError):
    """The output names no acceptable model ref. The error code tells why."""

    code = "no_model"


class NeedsDestination(NoModel):
    """The output names a version without its model, and the training's destination is not known here."""


class NeedsLookup(NoModel):
    """The output names a model, but at most a prefix of its version. Replicate's list may complete it."""

    #: Advice for the operator if the list does not help.
    advice: str = BY_HAND

    def __init__(self, message: str, *, code: str, model: ModelName, prefix: str | None) -> None:
        super().__init__(message, code=code)
        self.model = model
        #: Prefix of the version; None if the output names none.
        self.prefix = prefix


class NoOutput(NeedsLookup):
    """There is no output: Replicate may have deleted it. The version may still be in its list of versions."""

    advice = (
        "Look at the versions of the destination at Replicate. If you know which one this training made, name it in "
        "the dead letter's output (modelswap dead-letters edit), then replay"
    )

    def __init__(self, destination: ModelName) -> None:
        super().__init__(
            f"there is no output (Replicate may have removed it), so the versions of {destination} are searched",
            code="no_version",
            model=destination,
            prefix=None,
        )


class NotListed(NoModel):
    """None of the listed versions fits. The list may lag behind the trainings."""

    code = "version_not_listed"


class NotThereYet(TransientError):
    """Replicate does not have the version, which is normal right after a training."""

    code = "version_not_there_yet"


class Inconclusive(TransientError):
    """The model is neither proven good nor bad. Attempts are few, because each may cost a run."""

    code = "inconclusive"
    max_attempts: int | None = 6


class StillRunning(Inconclusive):
    """The run has not ended; it may be booting. The next attempt waits for the same run."""

    code = "still_running"


class NeverBegan(Inconclusive):
    """Replicate had no machine for the run in time, and charges nothing for it. There may be none for hours."""

    code = "run_cut_off"
    max_attempts = None


class OutOfReach(Inconclusive):
    """The run succeeded, but its image cannot be fetched now. The next attempt fetches it without a new run."""

    code = "picture_out_of_reach"
    #: It costs no run, and Replicate's files may be away for hours.
    max_attempts = None


class PictureGone(Inconclusive):
    """
    Replicate has deleted the image of the run, as it does after an hour. The next attempt runs the model again.

    It may have been out of reach until then, so there are as many attempts as for that.
    """

    max_attempts = None


class DoesNotWork(PermanentError):
    """The model is proven bad."""

    code = "does_not_work"


def shown(value: JsonValue) -> str:
    """Format *value* for an error's message: short, with invisible characters escaped."""
    if isinstance(value, str):
        return ascii(value[:_SHOWN_CHARACTERS]) + ("…" if len(value) > _SHOWN_CHARACTERS else "")
    return f"a value of type {type(value).__name__}"
