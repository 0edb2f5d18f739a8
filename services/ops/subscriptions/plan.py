"""
What a subscription consists of on the broker: names, arguments and rights. Pure.

    modelswap.events ──▶ modelswap.subscription.NAME ──▶ modelswap.subscription.NAME.overflow
                         drops its oldest event at its   drops its oldest event at its limit
                         limit, and what was delivered
                         too often, into the overflow

No limit rejects a publish, so a subscriber that is slow, full or gone delays neither us nor another subscriber.

The limit that an operator sets is a policy, so it can change; the queue's own argument is the largest that can be set,
and counts if the policy is missing. Of the two the lower one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from services.ops.subscriptions.views import LONGEST
from shared.contract.rights import Rights, exactly
from shared.contract.topology import EVENTS_LOG

PREFIX: Final = "modelswap.subscription."
OVERFLOW: Final = ".overflow"
#: Above that of policies for many queues: only the one with the highest priority counts.
_PRIORITY: Final = 100
_DELIVERY_LIMIT: Final = 20
OVERFLOW_LENGTH: Final = 100_000


def queue_of(name: str) -> str:
    return f"{PREFIX}{name}"


def overflow_of(name: str) -> str:
    return f"{PREFIX}{name}{OVERFLOW}"


def user_of(name: str) -> str:
    """Return the RabbitMQ user of a subscription; its policy has the same name."""
    return f"modelswap-subscription-{name}"


def arguments(name: str) -> Mapping[str, str | int]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": _DELIVERY_LIMIT,
        "x-overflow": "drop-head",
        "x-max-length": LONGEST,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": overflow_of(name),
        "x-dead-letter-strategy": "at-most-once",
    }


def overflow_arguments() -> Mapping[str, str | int]:
    return {
        "x-queue-type": "quorum",
        # Out of reach: an event that is looked at many times must not be dropped.
        "x-delivery-limit": 1_000_000,
        "x-overflow": "drop-head",
        "x-max-length": OVERFLOW_LENGTH,
    }


def policy(name: str, max_length: int) -> Mapping[str, JsonValue]:
    return {
        "pattern": exactly(queue_of(name)),
        "apply-to": "queues",
        "priority": _PRIORITY,
        "definition": {"max-length": max_length},
    }


def rights(name: str) -> Rights:
    """Return the rights of the user: to read its two queues and the log of all events."""
    return Rights(read=exactly(queue_of(name), overflow_of(name), EVENTS_LOG))
