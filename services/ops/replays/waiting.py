"""Why sent dead letters have no outcome yet: the health of the processes that handle them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from services.ops.replays.views import ReplayView
from shared.contract.health import HELD_UP_SECONDS, Seen
from shared.contract.topology import DELIVERIES_QUEUE, OPS_QUEUE, STATE_QUEUE

#: Returns how each process was found, by name.
Look: TypeAlias = Callable[[], Awaitable[Mapping[str, Seen]]]

#: Verifying a model may take minutes; a service that waits for a dependency says so at once.
_LONG: Final = timedelta(seconds=10)
_OURSELVES: Final = "ops"
#: The way of a dead letter of each queue to its outcome.
_WAYS: Final = {
    STATE_QUEUE: ("state", _OURSELVES),
    DELIVERIES_QUEUE: ("notifier", _OURSELVES),
    OPS_QUEUE: (_OURSELVES,),
}
_WAY_OF_OTHERS: Final = ("extractor", "state", _OURSELVES)


class Waiting:
    """Says what the dead letter of a replay waits for that was sent first."""

    def __init__(self, look: Look, *, long: timedelta = _LONG) -> None:
        """*look* is called if it was sent longer ago than *long*."""
        self._look = look
        self._long = long

    async def shown(self, record: ReplayView, *, now: datetime) -> ReplayView:
        """Return *record* with what its sent dead letters wait for."""
        return record.model_copy(update={"waiting_for": await self._reasons(record, now)})

    async def _reasons(self, record: ReplayView, now: datetime) -> Sequence[str]:
        if record.sent_since is None or now - record.sent_since < self._long:
            return ()
        seen = await self._look()
        way = _WAYS.get(record.sent_queue, _WAY_OF_OTHERS)
        if reasons := [f"{name}: {why}" for name in way if (why := _why(name, seen[name]))]:
            return reasons
        if (now - record.sent_since).total_seconds() < HELD_UP_SECONDS:
            return []
        at = record.sent_since.astimezone(UTC)
        return [f"{way[0]}: it has had the first of them since {at:%T} UTC; delivery.retried in its log says why"]


def _why(name: str, seen: Seen) -> str:
    """Return what keeps a process from its work; empty: nothing."""
    if seen.health is None:
        return seen.detail
    if name != _OURSELVES:
        return "; ".join(seen.health.problems)
    # Of ours, a dead letter waits for the consumers alone.
    return "; ".join(f"{queue}: {why}" for queue, why in seen.health.paused.items())
