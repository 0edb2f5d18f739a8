"""What to do with a delivery that failed. Pure: it decides, it never sleeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from shared.contract.errors import PermanentError, TransientError

#: Growing delays between attempts; about 3.4 hours in all.
DELAYS: Final = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 600, 3600, 3600, 3600))
#: An exception that nobody named counts as transient, but gives up sooner.
UNKNOWN_ERROR_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again after *delay*, as attempt number *attempt*."""

    delay: timedelta
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Set it aside with its reason."""


def next_step(
    error: BaseException, *, attempt: int, delays: Sequence[timedelta] = DELAYS, chance: float = 0.5
) -> RetryIn | DeadLetter:
    """
    Decide what follows the failure *error* of the 1-based *attempt*.

    *chance* (0..1) is the jitter: the delay is picked between this step's and the one below it, because queues of fixed
    delays are all that a broker offers without a plugin.
    """
    limit = len(delays) + 1
    match error:
        case PermanentError():
            return DeadLetter()
        case TransientError(max_attempts=int(own)):
            limit = min(limit, own)
        case TransientError():
            pass
        case _:
            limit = min(limit, UNKNOWN_ERROR_ATTEMPTS)
    if attempt >= limit:
        return DeadLetter()
    step = attempt - 1
    if step > 0 and chance < 0.2:  # noqa: PLR2004
        step -= 1
    return RetryIn(delays[step], attempt + 1)
