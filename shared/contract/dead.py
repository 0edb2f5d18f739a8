"""
Message headers that record failed attempts. Pure.

``x-attempt``   1-based number of this attempt. Our own, because RabbitMQ's counters differ between versions.
``x-failed-at`` when the first attempt failed.
``x-dead-*``    on a dead letter: its queue, its error, the number of attempts, and its original exchange and key.
"""

from __future__ import annotations

from typing import Final

ATTEMPT: Final = "x-attempt"
FAILED_AT: Final = "x-failed-at"
DEAD: Final = "x-dead-"
#: Added by RabbitMQ when it dead-letters a message itself; the newest death first.
DEATHS: Final = "x-death"
#: Not copied to a retry or replay: headers that the broker adds in a delay queue, and those of an earlier death.
BROKERS_OWN: Final = (DEATHS, "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count", DEAD)
