"""Hand waiting deliveries to the broker; delete old ones. Edge."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.notifier.store.session import Session
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import DeliveryRequested
from shared.runtime import telemetry
from shared.runtime.clock import now
from shared.runtime.postgres import Connection, Pool, Record

#: How long events and their deliveries are kept.
KEEP: Final = timedelta(days=30)
#: Of one endpoint that fails, in the queue and the delays.
_IN_BROKER_MOST: Final = 100
_BATCH: Final = 200

#: Publishes messages; returns one result for each, None if the broker confirmed it.
Publish = Callable[[Sequence[Envelope]], Awaitable[Sequence[BaseException | None]]]

_DUE: Final = """
    SELECT d.number, d.id, d.endpoint_id, d.sending, e.training_id, e.trace
    FROM notifier.endpoints p
    CROSS JOIN LATERAL (
        SELECT number, id, endpoint_id, sending, event_id
        FROM notifier.deliveries w
        WHERE w.endpoint_id = p.id AND w.status = 'waiting'
        ORDER BY number
        LIMIT greatest(0, $1 - (SELECT count(*) FROM notifier.deliveries q
                                WHERE q.endpoint_id = p.id AND q.status = 'queued'))
        FOR NO KEY UPDATE SKIP LOCKED
    ) d
    JOIN notifier.events e ON e.id = d.event_id
    WHERE p.status = 'enabled' AND (p.not_before IS NULL OR p.not_before <= clock_timestamp())
      AND (p.failing_since IS NULL
           OR $2 > (SELECT count(*) FROM notifier.deliveries q
                    WHERE q.endpoint_id = p.id AND q.status IN ('queued', 'retrying')))
    LIMIT $3
"""
# IS TRUE: few wait when a plan is made, and later all that wait for a paused endpoint would be read to find these.
MARK_QUEUED: Final = """
    UPDATE notifier.deliveries
    SET status = 'queued', status_at = clock_timestamp(), sent_at = coalesce(sent_at, clock_timestamp())
    WHERE number = ANY ($1::bigint[]) AND (status = 'waiting') IS TRUE
"""
FIND_LOST: Final = """
    UPDATE notifier.deliveries
    SET status = 'waiting', status_at = clock_timestamp(), sending = sending + 1
    WHERE number = ANY(ARRAY(SELECT number FROM notifier.deliveries
                             WHERE status IN ('queued', 'retrying') AND status_at < $1 ORDER BY status_at LIMIT $2))
    RETURNING true
"""
PRUNE_EVENTS: Final = """
    DELETE FROM notifier.events
    WHERE id = ANY(ARRAY(SELECT id FROM notifier.events WHERE created_at < statement_timestamp() - $1::interval
                         ORDER BY created_at LIMIT $2))
    RETURNING true
"""
_COUNT_DISABLED: Final = "SELECT count(*) FROM notifier.endpoints WHERE status IN ('gone', 'failing')"


@dataclass(frozen=True, slots=True)
class Round:
    """Result of one round."""

    published: int
    failures: Sequence[BaseException]


class Relaying(Session):
    """What the relay needs."""

    def __init__(self, pool: Pool, *, at_once: int) -> None:
        """At most *at_once* deliveries of one endpoint are queued."""
        super().__init__(pool)
        self._at_once = at_once

    async def relay(self, publish: Publish) -> Round:
        """Publish the next waiting deliveries, and mark those that the broker confirmed."""

        async def work(connection: Connection) -> Round:
            rows = await connection.fetch(_DUE, self._at_once, _IN_BROKER_MOST, _BATCH)
            results = await publish([_to_envelope(row) for row in rows]) if rows else ()
            confirmed = [row["number"] for row, end in zip(rows, results, strict=True) if end is None]
            if confirmed:
                await connection.execute(MARK_QUEUED, confirmed)
            return Round(len(confirmed), [end for end in results if end is not None])

        return await self._transaction(work)

    async def keep_in_order(self, *, lost_before: datetime, limit: int) -> int:
        """
        Let deliveries wait again whose message was lost, delete old rows, and count disabled endpoints.

        Changes at most *limit* rows of each table; returns the largest number of one.
        """
        lost = await self._fetch(FIND_LOST, lost_before, limit)
        old = await self._fetch(PRUNE_EVENTS, KEEP, limit)
        keys = await self._prune_keys("notifier", limit=limit)
        (row,) = await self._fetch(_COUNT_DISABLED)
        telemetry.webhook_endpoints_disabled.set(row["count"])
        return max(len(lost), len(old), keys)


def _to_envelope(row: Record) -> Envelope:
    event = DeliveryRequested(
        training_id=row["training_id"],
        delivery_id=row["id"],
        endpoint_id=row["endpoint_id"],
        sending=row["sending"],
    )
    return wrap(event, source="notifier", now=now(), trace=json.loads(row["trace"]))
