"""
Who can heal a failure? Pure.

    ModelswapError
    ├── TransientError           time heals it: retry, with growing delay
    │   └── DependencyDown       time heals it, for every message alike: pause, probe, burn no attempt
    └── PermanentError           nobody can: dead-letter it at once

Edges translate library errors into one of these, once, with ``raise … from error``. A message names the thing that
failed and says what was seen, because an operator who has nothing else reads it in a dead letter.
"""

from __future__ import annotations

from typing import Final

from shared.contract.text import clean

#: The code of an exception that modelswap has no name for.
UNEXPECTED: Final = "unexpected"


class ModelswapError(Exception):
    """Something failed that modelswap has a name for."""

    #: What operators filter and group by. Snake case; never changes once published.
    code: str = "error"
    #: All codes that errors of this class have, where each is raised with one of its own.
    codes: tuple[str, ...] = ()

    def __init__(self, message: str, *, code: str | None = None) -> None:
        # It is logged, stored and published, and may quote what came from outside.
        super().__init__(clean(message))
        if code is not None:
            self.code = code


class TransientError(ModelswapError):
    """It may work later: retry this delivery."""

    code = "transient"
    #: After how many attempts to give up; None = when the ladder of delays ends.
    max_attempts: int | None = None


class DependencyDown(TransientError):  # noqa: N818 (it is a condition, and reads as one)
    """
    Something that every delivery needs is away: Postgres, Replicate, the broker's confirms.

    The consumer pauses and probes. No attempt is counted, because no message is at fault.
    """

    code = "dependency_down"
    #: May it be down for this delivery alone? It is, where another one passed meanwhile: then an attempt is counted.
    may_concern_one: bool = False

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        #: How long the dependency told us to wait, if it did.
        self.retry_after_seconds = retry_after_seconds


class PermanentError(ModelswapError):
    """It will never work like this: dead-letter this delivery at once."""

    code = "permanent"


class Malformed(PermanentError):  # noqa: N818 (it is a condition, and reads as one)
    """A message could not be decoded into an event that this version knows."""

    code = "malformed"


def code_of(error: BaseException) -> str:
    """What *error* is called wherever it is told of; ``unexpected`` where nobody gave it a name."""
    return error.code if isinstance(error, ModelswapError) else UNEXPECTED
