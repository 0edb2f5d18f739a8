"""Retry policy: decides whether a failed delivery is retried or dead-lettered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final

from shared.contract.errors import PermanentError, TransientError

#: Growing delays between attempts; about 3.4 hours in all.
DELAYS: Final = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 600, 3600, 3600, 3600))
#: Attempts for an exception that is not a `ModelswapError`: retried like a transient one, but fewer times.
UNKNOWN_ERROR_ATTEMPTS: Final = 4
#: Share of the retries that take the delay of the step before: the jitter.
_EARLIER_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again after *delay*, as attempt number *attempt*."""

    delay: timedelta
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Publish it as a dead letter, with its error."""


def next_step(
    error: BaseException, *, attempt: int, delays: Sequence[timedelta] = DELAYS, chance: float = 0.5
) -> RetryIn | DeadLetter:
    """
    Decide what follows when *attempt* (1-based) failed with *error*.

    *chance* (0..1) is the jitter: it picks this step's delay or the one before it, because without a plugin a broker
    offers only queues with a fixed delay. After the error's own Retry-After, the first delay of at least that length
    is picked, or else the longest.
    """
    limit: float = len(delays) + 1
    retry_after = None
    match error:
        case PermanentError():
            return DeadLetter()
        case TransientError(is_patient=True):
            limit, retry_after = inf, error.retry_after_seconds
        case TransientError(max_attempts=int(own)):
            limit = min(limit, own)
        case TransientError():
            pass
        case _:
            limit = min(limit, UNKNOWN_ERROR_ATTEMPTS)
    if attempt >= limit:
        return DeadLetter()
    following = attempt if isinstance(error, TransientError) and error.is_untried else attempt + 1
    step = min(attempt, len(delays)) - 1
    if retry_after is not None:
        long_enough = (each for each in delays[step:] if each.total_seconds() >= retry_after)
        return RetryIn(next(long_enough, max(delays)), following)
    if step > 0 and chance < _EARLIER_SHARE:
        step -= 1
    return RetryIn(delays[step], following)
