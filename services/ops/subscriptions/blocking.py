"""
Finds queues that subscribers bound by themselves and that hold up all subscribers, or could. Pure.

RabbitMQ confirms a published event only when every queue that it reached has taken it. A queue that rejects it (full,
with `reject-publish`), or whose node is down, makes RabbitMQ refuse the event. The outbox publishes it again until it
is confirmed, and the events behind it wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.ops.subscriptions.answers import BoundAnswer

#: A queue without a node, or without a majority of its nodes, takes nothing.
_DOWN: Final = ("crashed", "down", "minority", "stopped", "terminated")
_SHOWN: Final = 5


def why_blocking(queue: BoundAnswer) -> str | None:
    """Return why *queue* holds up everything, or could; None if it cannot."""
    if queue.state in _DOWN:
        return f"{queue.name} takes no events: it is {queue.state}"
    if queue.overflow.startswith("reject-publish"):
        return f"{queue.name} rejects events when it is full ({queue.overflow})"
    return None


def described(reasons: Sequence[str]) -> str | None:
    """Return *reasons* as one sentence for operators; None if there is none."""
    if not reasons:
        return None
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return f"queues bound to modelswap.events can hold up all subscribers: {'; '.join(reasons[:_SHOWN])}{more}"
