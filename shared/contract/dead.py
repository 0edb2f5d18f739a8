"""
Which headers tell of a message's failures? Pure.

``x-attempt``   which attempt this delivery is, from 1. Our own, because RabbitMQ's counters differ between versions.
``x-failed-at`` when the first attempt failed.
``x-dead-*``    on a dead letter: where it was consumed, how it failed, how often, and how it came there.
"""

from __future__ import annotations

from typing import Final

ATTEMPT: Final = "x-attempt"
FAILED_AT: Final = "x-failed-at"
DEAD: Final = "x-dead-"
#: What RabbitMQ adds where a message dies without our help; its newest death first.
DEATHS: Final = "x-death"
#: What the broker adds on a message's way through a delay, and what speaks of an earlier death.
BROKERS_OWN: Final = (DEATHS, "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count", DEAD)
