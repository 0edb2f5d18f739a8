"""Show deliveries, and send them again on request. Edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from services.notifier.message import StoredEvent
from services.notifier.store.endpoints import get_endpoint
from services.notifier.store.session import Session, once
from services.notifier.views import DeliveryStatus, DeliveryView, EventDeliveryView, NoDelivery, Resent
from shared.contract.answers import END
from shared.contract.idempotency import IdempotencyKey
from shared.runtime.postgres import Connection

#: Deliveries that one request sends again.
MOST_RESENT: Final = 10_000

_VIEW: Final = """
    SELECT d.number, d.id, d.endpoint_id, d.event_id, e.type AS event, d.status, d.status_at, d.created_at, d.attempts,
           d.response_status, d.response, d.took_ms, p.url
    FROM notifier.deliveries d
    JOIN notifier.events e ON e.id = d.event_id
    JOIN notifier.endpoints p ON p.id = d.endpoint_id
"""
_BY_ID: Final = f"{_VIEW} WHERE d.id = $1 AND d.endpoint_id = $2"
_LIST: Final = f"""
    {_VIEW} WHERE d.endpoint_id = $1 AND d.number < $2 AND ($3::text IS NULL OR d.status = $3)
    ORDER BY d.number DESC LIMIT $4
"""
_LIST_OF_EVENT: Final = f"{_VIEW} WHERE d.event_id = $1 AND d.number < $2 ORDER BY d.number DESC LIMIT $3"
_ADD_EVENT: Final = """
    INSERT INTO notifier.events (id, type, training_id, trace, body) VALUES ($1, $2, $3, $4, $5)
"""
_ADD_DELIVERY: Final = "INSERT INTO notifier.deliveries (endpoint_id, event_id) VALUES ($1, $2) RETURNING id"
_AGAIN: Final = """
    UPDATE notifier.deliveries
    SET status = 'waiting', status_at = clock_timestamp(), sending = sending + 1, sent_at = NULL
    WHERE {}
"""
_RESEND: Final = _AGAIN.format("endpoint_id = $1 AND id = $2")
_SINCE: Final = """
    FROM notifier.deliveries
    WHERE endpoint_id = $1 AND created_at >= $2 AND (status = 'failed' OR ($3 AND status = 'delivered'))
      AND number <= $4
"""
RESEND_SINCE: Final = _AGAIN.format(f"""number = ANY(ARRAY(
        SELECT number {_SINCE} ORDER BY created_at, number LIMIT $5))
    RETURNING true""")
_COUNT_SINCE: Final = f"SELECT count(*), max(number) AS newest {_SINCE}"
# The first that is left for another request. By time, not by number: times may go back, after a failover.
_NEXT_SINCE: Final = f"SELECT created_at {_SINCE} ORDER BY created_at, number OFFSET $5 LIMIT 1"


class Resending(Session):
    """Deliveries, as the product's services see them."""

    async def list_deliveries(
        self, endpoint_id: UUID, *, status: DeliveryStatus | None, before: int = END, limit: int
    ) -> Sequence[DeliveryView]:
        """Return at most *limit* deliveries of an endpoint, numbered below *before*, newest first."""

        async def work(connection: Connection) -> Sequence[DeliveryView]:
            await get_endpoint(connection, endpoint_id)
            rows = await connection.fetch(_LIST, endpoint_id, before, status, limit)
            return [DeliveryView(**row) for row in rows]

        return await self._transaction(work)

    async def list_event_deliveries(
        self, event_id: str, *, before: int = END, limit: int
    ) -> Sequence[EventDeliveryView]:
        """Return at most *limit* deliveries of an event, numbered below *before*, newest first."""
        rows = await self._fetch(_LIST_OF_EVENT, event_id, before, limit)
        return [EventDeliveryView(**row) for row in rows]

    async def add_test(self, endpoint_id: UUID, event: StoredEvent, key: IdempotencyKey | None) -> DeliveryView:
        """Send *event* to one endpoint, also if it does not subscribe to it."""

        async def work(connection: Connection) -> DeliveryView:
            await get_endpoint(connection, endpoint_id)

            async def make() -> str:
                trace = json.dumps(dict(event.trace))
                await connection.execute(_ADD_EVENT, event.id, event.type, event.training_id, trace, event.body)
                return str(await connection.fetchval(_ADD_DELIVERY, endpoint_id, event.id))

            return await _get(connection, endpoint_id, UUID(await once(connection, key, make)))

        return await self._change(work)

    async def resend(self, endpoint_id: UUID, delivery_id: UUID, key: IdempotencyKey | None) -> DeliveryView:
        """Send a delivery again, whatever its status; messages about it that are underway are out of date."""

        async def work(connection: Connection) -> DeliveryView:
            await get_endpoint(connection, endpoint_id)

            async def make() -> str:
                await connection.execute(_RESEND, endpoint_id, delivery_id)
                return ""

            await once(connection, key, make)
            return await _get(connection, endpoint_id, delivery_id)

        return await self._change(work)

    async def resend_since(
        self,
        endpoint_id: UUID,
        since: datetime,
        *,
        with_delivered: bool,
        up_to: int | None,
        key: IdempotencyKey | None,
    ) -> Resent:
        """Send failed deliveries since a time again, at most numbered *up_to*, or also delivered ones; oldest first."""

        async def work(connection: Connection) -> Resent:
            await get_endpoint(connection, endpoint_id)

            async def make() -> str:
                wanted = (endpoint_id, since, with_delivered, END if up_to is None else up_to, MOST_RESENT)
                following = await connection.fetchval(_NEXT_SINCE, *wanted)
                count = len(await connection.fetch(RESEND_SINCE, *wanted))
                return Resent(deliveries=count, next_since=following).model_dump_json()

            return _resent(await once(connection, key, make))

        return await self._change(work)

    async def count_since(
        self, endpoint_id: UUID, since: datetime, *, with_delivered: bool, up_to: int | None
    ) -> Resent:
        """Return how many deliveries `resend_since` would send."""

        async def work(connection: Connection) -> Resent:
            await get_endpoint(connection, endpoint_id)
            wanted = (endpoint_id, since, with_delivered, END if up_to is None else up_to)
            (found,) = await connection.fetch(_COUNT_SINCE, *wanted)
            return Resent(
                deliveries=min(found["count"], MOST_RESENT),
                dry_run=True,
                next_since=await connection.fetchval(_NEXT_SINCE, *wanted, MOST_RESENT),
                newest=found["newest"],
            )

        return await self._transaction(work)


def _resent(made: str) -> Resent:
    # An earlier version remembered the number alone.
    return Resent(deliveries=int(made)) if made.isdecimal() else Resent.model_validate_json(made)


async def _get(connection: Connection, endpoint_id: UUID, delivery_id: UUID) -> DeliveryView:
    row = await connection.fetchrow(_BY_ID, delivery_id, endpoint_id)
    if row is None:
        raise NoDelivery(f"webhook endpoint {endpoint_id} has no delivery {delivery_id}")
    return DeliveryView(**row)
