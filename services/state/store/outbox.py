"""The outbox: stores events, publishes them after the commit, and deletes old ones. Edge."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from pydantic_core import to_json

from services.state.changes import OutboxEvent
from services.state.store.session import Session
from shared.contract.limits import Unpublishable
from shared.runtime import tracing
from shared.runtime.postgres import Connection, Record

_KEEP_PUBLISHED: Final = timedelta(days=7)
_KEEP_INBOX: Final = timedelta(days=30)

#: Inserts the rows of `outbox_rows` in parameter {0}.
INSERT_OUTBOX: Final = """
    INSERT INTO state.outbox (event_id, user_id, generation, exchange, routing_key, training_id, headers, body)
    SELECT event_id, user_id, generation, exchange, routing_key, training_id, headers, body::json
    FROM json_to_recordset({0}::json) AS e (
        event_id text, user_id text, generation bigint, exchange text, routing_key text, training_id text, headers json,
        body text)
"""

# The mark of a published event may be lost in a crash: the event is then published again, as it may be anyway. So this
# does not wait for the disk. Rows that another relay has marked since this statement began are published again too.
# Not "after the last published id": a lower id may be committed later. Without an unpublished event: one row, id null.
_UNPUBLISHED: Final = """
    WITH turn AS MATERIALIZED (
        SELECT pg_try_advisory_xact_lock(hashtextextended('state.outbox', 0))
               AND set_config('synchronous_commit', 'off', true) = 'off' AS is_locked,
               (SELECT count(*) FROM state.outbox WHERE set_aside_at IS NOT NULL AND published_at IS NULL) AS set_aside
    )
    SELECT turn.*, unpublished.*
    FROM turn LEFT JOIN LATERAL (
        SELECT id, user_id, training_id, exchange, routing_key, headers, body
        FROM state.outbox
        WHERE published_at IS NULL AND set_aside_at IS NULL AND turn.is_locked
        ORDER BY id
        LIMIT $1
    ) unpublished ON true
    ORDER BY id
"""
_MARK_PUBLISHED: Final = "UPDATE state.outbox SET published_at = clock_timestamp() WHERE id = ANY($1::bigint[])"
_SET_ASIDE: Final = """
    UPDATE state.outbox SET set_aside_at = clock_timestamp(), set_aside_reason = s.reason
    FROM unnest($1::bigint[], $2::text[]) AS s (id, reason)
    WHERE outbox.id = s.id
"""

# The oldest rows are the ones to delete, so each reads as many as it may delete, however long the table is. Not
# clock_timestamp(), here and in the other schemas: it is volatile, so no index would be used.
PRUNE_OUTBOX: Final = """
    DELETE FROM state.outbox
    WHERE id = ANY(ARRAY(SELECT id FROM state.outbox ORDER BY id LIMIT $2))
      AND published_at < statement_timestamp() - $1::interval
    RETURNING true
"""
PRUNE_INBOX: Final = """
    DELETE FROM state.inbox
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM state.inbox WHERE received_at < statement_timestamp() - $1::interval
                               ORDER BY received_at LIMIT $2))
    RETURNING true
"""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the outbox."""

    exchange: str
    routing_key: str
    training_id: str
    user_id: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class SetAsideRow:
    """A row of the outbox that can never be published as it is."""

    number: int
    training_id: str
    error: Unpublishable


@dataclass(frozen=True, slots=True)
class Round:
    """Result of one round of the relay."""

    published: int
    #: Why others were not published; they are tried again.
    failures: Sequence[BaseException] = ()
    #: Rows that were set aside in this round.
    unpublishable: Sequence[SetAsideRow] = ()
    #: Number of all rows that are set aside.
    set_aside: int = 0


#: Publishes in order; returns one result for each event, None if the broker confirmed it.
Publish: TypeAlias = Callable[[Sequence[StoredEvent]], Awaitable[Sequence[BaseException | None]]]


class Outbox(Session):
    """Events to publish."""

    async def relay(self, publish: Publish, *, limit: int) -> Round | None:
        """
        Publish the oldest *limit* unpublished events, and mark the confirmed ones.

        An event that can never be published as it is, is set aside.

        Returns None if another relay is at work.
        """

        async def work(connection: Connection) -> Round | None:
            found = await connection.fetch(_UNPUBLISHED, limit)
            turn = found[0]
            if not turn["is_locked"]:
                return None
            rows = [row for row in found if row["id"] is not None]
            results = await publish([_to_event(row) for row in rows]) if rows else ()
            ends = list(zip(rows, results, strict=True))
            confirmed = [row["id"] for row, end in ends if end is None]
            set_aside = tuple(
                SetAsideRow(row["id"], row["training_id"], end) for row, end in ends if isinstance(end, Unpublishable)
            )
            failures = tuple(end for _, end in ends if end is not None and not isinstance(end, Unpublishable))
            if confirmed:
                await connection.execute(_MARK_PUBLISHED, confirmed)
            if set_aside:
                reasons = [f"{row.error.code}: {row.error}" for row in set_aside]
                await connection.execute(_SET_ASIDE, [row.number for row in set_aside], reasons)
            return Round(len(confirmed), failures, set_aside, turn["set_aside"] + len(set_aside))

        return await self._transaction(work)

    async def prune(self, limit: int) -> int:
        """Delete at most *limit* old rows of each table; return the largest number deleted from one."""
        tables = ((PRUNE_OUTBOX, _KEEP_PUBLISHED), (PRUNE_INBOX, _KEEP_INBOX))
        deleted = [len(await self._fetch(statement, keep, limit)) for statement, keep in tables]
        return max(*deleted, await self._prune_keys("state", limit=limit))


def outbox_rows(events: Iterable[OutboxEvent]) -> str:
    """Return the rows of `INSERT_OUTBOX`: messages exactly as the relay will publish them."""
    return to_json([_outbox_row(each) for each in events]).decode()


def _outbox_row(each: OutboxEvent) -> Mapping[str, object]:
    envelope = each.envelope
    headers = envelope.headers()
    if not envelope.trace:
        # No event caused it, but a request, if anything: then it is a part of that trace.
        headers |= tracing.context()
    return {
        "event_id": envelope.id,
        "user_id": each.user_id,
        "generation": each.generation,
        "exchange": envelope.event.exchange,
        "routing_key": envelope.routing_key,
        "training_id": envelope.event.training_id,
        "headers": headers,
        "body": envelope.body().decode(),
    }


def _to_event(row: Record) -> StoredEvent:
    return StoredEvent(
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        training_id=row["training_id"],
        user_id=row["user_id"],
        headers=json.loads(row["headers"]),
        body=row["body"].encode(),
    )
