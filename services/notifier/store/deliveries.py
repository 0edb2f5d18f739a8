"""Store events with their deliveries, and the ends of attempts. Edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from services.notifier.attempts import End, Sending
from services.notifier.message import StoredEvent
from services.notifier.signing import Seed, Seeds
from services.notifier.store.session import Session
from services.notifier.views import DeliveryStatus, EndpointStatus
from shared.contract.events import DeliveryRequested
from shared.runtime import telemetry
from shared.runtime.postgres import Connection, Record

#: An endpoint is disabled when all its attempts failed for so long.
FAILING_AFTER: Final = timedelta(days=5)

_ATTEMPTS: Final = {
    status: telemetry.webhook_attempts.labels(status.value)
    for status in (DeliveryStatus.DELIVERED, DeliveryStatus.RETRYING, DeliveryStatus.FAILED)
}

# Events may be read again: those from before an endpoint was added are not for it. Clocks may differ by a minute.
# An event that no endpoint wants is not stored.
_WANTED: Final = """
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::json[], $6::text[])
         WITH ORDINALITY AS n (id, type, time, training_id, trace, body, position)
    JOIN notifier.endpoints p ON n.type = ANY (p.events) AND p.created_at <= n.time + interval '1 minute'
"""
_ADD_EVENTS: Final = f"""
    INSERT INTO notifier.events (id, type, training_id, trace, body)
    SELECT n.id, n.type, n.training_id, n.trace, n.body {_WANTED}
    ON CONFLICT (id) DO NOTHING
"""
# The lock is that of the foreign key, before an endpoint can be removed.
_ADD_DELIVERIES: Final = f"""
    INSERT INTO notifier.deliveries (endpoint_id, event_id)
    SELECT p.id, n.id {_WANTED}
    ORDER BY n.position
    FOR KEY SHARE OF p
    ON CONFLICT (endpoint_id, event_id) DO NOTHING
"""
_FIND: Final = """
    SELECT d.sent_at, e.id AS event_id, e.type, e.body, p.url, p.status, p.failing_since IS NOT NULL AS is_failing,
           p.not_before, p.salt, p.master, p.old_salt, p.old_master, p.old_until
    FROM notifier.deliveries d
    JOIN notifier.events e ON e.id = d.event_id
    JOIN notifier.endpoints p ON p.id = d.endpoint_id
    WHERE d.id = $1 AND d.sending = $2 AND d.status <> 'delivered'
"""
# Messages about it are out of date from now on.
_HOLD: Final = """
    UPDATE notifier.deliveries
    SET status = 'waiting', status_at = clock_timestamp(), sending = sending + 1, sent_at = NULL
    WHERE id = $1 AND sending = $2 AND status <> 'delivered'
"""
# Without `sent_at`, the relay was ended after the message was published and before that was stored.
_END: Final = """
    UPDATE notifier.deliveries
    SET status = $3, status_at = $4, attempts = attempts + 1, response_status = $5, response = $6, took_ms = $7,
        sent_at = coalesce(sent_at, $4)
    WHERE id = $1 AND sending = $2 AND status <> 'delivered'
    RETURNING true
"""
# Before the delivery, as when an endpoint is removed with its deliveries: so they cannot block each other.
_LOCK_ENDPOINT: Final = "SELECT status FROM notifier.endpoints WHERE id = $1 AND url = $2 FOR NO KEY UPDATE"
# Written at most once a minute while all is well.
_NOTE_SUCCESS: Final = """
    UPDATE notifier.endpoints SET last_success_at = $2, failing_since = NULL, not_before = NULL
    WHERE id = $1 AND url = $3
      AND (failing_since IS NOT NULL OR not_before IS NOT NULL OR last_success_at IS NULL
           OR last_success_at < $2::timestamptz - interval '1 minute')
"""
_NOTE_FAILURE: Final = """
    UPDATE notifier.endpoints SET
        failing_since = coalesce(failing_since, $2),
        failed_attempts = CASE WHEN failing_since IS NULL THEN 1 ELSE failed_attempts + 1 END,
        not_before    = greatest(not_before, $3),
        status        = CASE
            WHEN status <> 'enabled' THEN status
            WHEN $4::boolean THEN 'gone'
            WHEN failing_since <= $2::timestamptz - $5::interval THEN 'failing'
            ELSE status END
    WHERE id = $1
    RETURNING status
"""
_NOTE_STATUS: Final = "UPDATE notifier.endpoints SET status_at = $2 WHERE id = $1"


class Deliveries(Session):
    """What the handler of deliveries needs."""

    async def add(self, events: Sequence[StoredEvent]) -> None:
        """Store *events*, with one delivery for each endpoint that wants them; each once, however often they come."""
        await self._change(partial(add_events, events=events))

    async def find(self, asked: DeliveryRequested) -> Sending | None:
        """Return a delivery; None if it was delivered, sent again, or removed."""
        rows = await self._fetch(_FIND, asked.delivery_id, asked.sending)
        return _to_sending(rows[0]) if rows else None

    async def hold(self, asked: DeliveryRequested) -> None:
        """Let a delivery wait until its endpoint is enabled again."""
        await self._fetch(_HOLD, asked.delivery_id, asked.sending)

    async def record(self, asked: DeliveryRequested, end: End, *, url: str) -> EndpointStatus | None:
        """
        Store the end of an attempt at *url*; return the endpoint's status if it changes with it, else ``enabled``.

        None if a failure is out of date: the endpoint has another address now, or the delivery was delivered, sent
        again or removed meanwhile.
        """
        answer = end.answer

        async def work(connection: Connection) -> EndpointStatus | None:
            said = (asked.delivery_id, asked.sending, end.status, end.at, answer.status, answer.text, answer.took_ms)
            if end.status is DeliveryStatus.DELIVERED:
                await connection.execute(_END, *said)
                await connection.execute(_NOTE_SUCCESS, asked.endpoint_id, end.at, url)
                return EndpointStatus.ENABLED
            was = await connection.fetchval(_LOCK_ENDPOINT, asked.endpoint_id, url)
            if was is None or not await connection.fetchval(_END, *said):
                return None
            status = await connection.fetchval(
                _NOTE_FAILURE, asked.endpoint_id, end.at, end.not_before, end.is_gone, FAILING_AFTER
            )
            if status == was:
                return EndpointStatus.ENABLED
            await connection.execute(_NOTE_STATUS, asked.endpoint_id, end.at)
            return EndpointStatus(status)

        status = await self._change(work)
        _ATTEMPTS[end.status].inc()
        return status


async def add_events(connection: Connection, events: Sequence[StoredEvent]) -> None:
    """Do the work of `Deliveries.add` in a transaction of *connection*."""
    rows = [
        [each.id for each in events],
        [each.type for each in events],
        [each.time for each in events],
        [each.training_id for each in events],
        [json.dumps(dict(each.trace)) for each in events],
        [each.body for each in events],
    ]
    await connection.execute(_ADD_EVENTS, *rows)
    await connection.execute(_ADD_DELIVERIES, *rows)


def _to_sending(row: Record) -> Sending:
    old = None if row["old_salt"] is None else Seed(row["old_salt"], row["old_master"])
    return Sending(
        event_id=row["event_id"],
        event=row["type"],
        body=row["body"],
        sent_at=row["sent_at"],
        url=row["url"],
        endpoint=EndpointStatus(row["status"]),
        is_failing=row["is_failing"],
        not_before=row["not_before"],
        seeds=Seeds(Seed(row["salt"], row["master"]), old, row["old_until"]),
    )
