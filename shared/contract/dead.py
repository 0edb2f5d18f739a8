"""
Message headers that record failed attempts. Pure.

``x-attempt``      1-based number of this attempt. Our own, because RabbitMQ's counters differ between versions.
``x-published-at`` when the message was published first: a retry is published anew.
``x-failed-at``    when the first attempt failed.
``x-failed-by``    error code of the attempt before this one.
``x-dead-*``       on a dead letter: its queue, its error, the number of attempts, and its original exchange and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ATTEMPT: Final = "x-attempt"
PUBLISHED_AT: Final = "x-published-at"
FAILED_AT: Final = "x-failed-at"
FAILED_BY: Final = "x-failed-by"
#: On a retry.
RETRY_HEADERS: Final = (ATTEMPT, PUBLISHED_AT, FAILED_AT, FAILED_BY)
DEAD: Final = "x-dead-"
#: Added by RabbitMQ when it dead-letters a message itself; the newest death first.
DEATHS: Final = "x-death"
#: Added by RabbitMQ to each delivery from a stream: the place of the message in it.
OFFSET: Final = "x-stream-offset"
_ATTEMPTS_MOST: Final = 2**31 - 1
#: Not copied to another message: headers that the broker adds in a delay queue or a stream, or that tell of a death.
BROKERS_OWN: Final = (DEATHS, "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count", OFFSET, DEAD)


def attempt_in(headers: Mapping[str, object]) -> int:
    """Return the 1-based number of this attempt."""
    attempt = headers.get(ATTEMPT)
    return min(attempt, _ATTEMPTS_MOST) if isinstance(attempt, int) and attempt > 0 else 1
