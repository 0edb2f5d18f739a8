"""
Error classes; the class decides whether a failed delivery is retried or dead-lettered. Pure.

    ModelswapError
    ├── TransientError           may succeed later: retry with growing delay
    │   └── DependencyDown       a dependency of all deliveries is down: pause and probe, count no attempt
    └── PermanentError           can never succeed: dead-letter it at once

Edges translate library errors into one of these, once, with ``raise … from error``. A message names what failed and
what was observed, because in a dead letter it may be all that an operator has.
"""

from __future__ import annotations

from typing import Final

from shared.contract.text import clean

#: Code of an exception that is not a `ModelswapError`.
UNEXPECTED: Final = "unexpected"


class ModelswapError(Exception):
    """Base of all errors with a stable code."""

    #: Stable error code; operators filter and group by it. Snake case; never changes once published.
    code: str = "error"
    #: Every code that this class is raised with, if there are several.
    codes: tuple[str, ...] = ()

    def __init__(self, message: str, *, code: str | None = None) -> None:
        # The message is logged, stored and published, and may quote outside input.
        super().__init__(clean(message))
        if code is not None:
            self.code = code


class TransientError(ModelswapError):
    """May succeed later: retry this delivery."""

    code = "transient"
    #: Maximum number of attempts; None = as many as there are retry delays, plus one.
    max_attempts: int | None = None
    #: Whether the handler decides when to give up: attempts are unlimited, and the last delay is repeated.
    is_patient: bool = False
    #: Whether it was not tried at all, so that no attempt is counted.
    is_untried: bool = False
    #: Minimum delay before the next attempt (Retry-After), or None.
    retry_after_seconds: float | None = None


class DependencyDown(TransientError):
    """
    A dependency of every delivery is down: Postgres, Replicate, or the broker's confirms.

    The consumer pauses and probes. No attempt is counted, because the message is not the cause.
    """

    code = "dependency_down"
    #: Whether it may be down for this delivery only. If other deliveries succeed meanwhile, an attempt is counted.
    may_concern_one: bool = False

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class PermanentError(ModelswapError):
    """Can never succeed: dead-letter this delivery at once."""

    code = "permanent"


class Malformed(PermanentError):
    """A message that cannot be decoded into an event known to this version."""

    code = "malformed"


def code_of(error: BaseException) -> str:
    """Return the stable error code of *error*; ``unexpected`` if it is not a `ModelswapError`."""
    return error.code if isinstance(error, ModelswapError) else UNEXPECTED
