"""What the API shows of dead letters and of the audit. Edge."""

from __future__ import annotations

import base64
import json
from typing import Final

from services.ops.letters.views import (
    AuditFilter,
    AuditView,
    Filter,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
)
from services.ops.letters.where import by_number, where
from services.ops.session import END, Session
from shared.runtime.postgres import Record, acquired

_LINE: Final = """
    number, status, queue, event_type, event_id, training_id, user_id, error_code, error_class, error_text, attempts,
    returns, first_failed_at, last_failed_at, archived_at, status_at, fingerprint, replay_id,
    octet_length(body) AS body_bytes
"""
_FIND: Final = f"""
    SELECT {_LINE}, exchange, routing_key, content_type, headers::text AS headers, body, traceback
    FROM ops.letters WHERE number = $1
"""  # noqa: S608 (our own columns)

# From one fingerprint straight to the next, however many dead letters it has; then each is counted from its index.
# By their oldest dead letters, which do not change: so pages are stable, and a new kind of failure stands first.
_GROUPS: Final = """
    WITH RECURSIVE kinds AS (
        (SELECT fingerprint FROM ops.letters ORDER BY fingerprint LIMIT 1)
        UNION ALL
        SELECT (SELECT fingerprint FROM ops.letters WHERE fingerprint > kinds.fingerprint ORDER BY fingerprint LIMIT 1)
        FROM kinds WHERE kinds.fingerprint IS NOT NULL
    ), page AS (
        SELECT kinds.fingerprint, ends.oldest, ends.newest
        FROM kinds, LATERAL (
            SELECT
                (SELECT number FROM ops.letters WHERE fingerprint = kinds.fingerprint ORDER BY number LIMIT 1)
                    AS oldest,
                (SELECT number FROM ops.letters WHERE fingerprint = kinds.fingerprint ORDER BY number DESC LIMIT 1)
                    AS newest
        ) AS ends
        WHERE kinds.fingerprint IS NOT NULL AND ends.oldest < $1
          AND ($3::text IS NULL OR EXISTS (
              SELECT FROM ops.letters WHERE fingerprint = kinds.fingerprint AND status = $3))
        ORDER BY ends.oldest DESC
        LIMIT $2
    )
    SELECT page.fingerprint, page.oldest, page.newest, counted.*, example.queue, example.error_code,
           example.error_class, example.error_text
    FROM page, LATERAL (
        SELECT count(*) FILTER (WHERE status = 'open') AS open,
               count(*) FILTER (WHERE status = 'replaying') AS replaying,
               count(*) FILTER (WHERE status = 'resolved') AS resolved,
               count(*) FILTER (WHERE status = 'dropped') AS dropped,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '1 hour') AS last_hour,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '1 day') AS last_day,
               count(*) FILTER (WHERE last_failed_at > clock_timestamp() - interval '7 days') AS last_week,
               min(last_failed_at) AS first_failed_at,
               max(last_failed_at) AS last_failed_at
        FROM ops.letters WHERE fingerprint = page.fingerprint
    ) AS counted, LATERAL (
        SELECT queue, error_code, error_class, error_text FROM ops.letters WHERE number = page.newest
    ) AS example
    ORDER BY page.oldest DESC
"""

_COUNTS: Final = "SELECT count(*) FROM ops.letters WHERE status = $1"


class Queries(Session):
    """Reads only. Pages go down by number: what arrives meanwhile has a higher one, and moves nothing."""

    async def find(self, number: int) -> LetterView | None:
        rows = await self._fetch(_FIND, number)
        return _view(rows[0]) if rows else None

    async def list_letters(self, wanted: Filter, *, before: int | None, limit: int) -> list[LetterLine]:
        """Return at most *limit* dead letters numbered below *before*, newest first."""
        conditions, values = where(wanted)
        conditions += f" AND number < ${len(values) + 1} ORDER BY {by_number(wanted)} DESC LIMIT ${len(values) + 2}"
        statement = f"SELECT {_LINE} FROM ops.letters WHERE {conditions}"  # noqa: S608 (our own columns)
        rows = await self._fetch(statement, *values, END if before is None else before, limit)
        return [LetterLine(**row) for row in rows]

    async def list_groups(self, status: LetterStatus | None, *, before: int | None, limit: int) -> list[GroupView]:
        """Return at most *limit* groups whose oldest dead letter is numbered below *before*, the newest kind first."""
        rows = await self._fetch(_GROUPS, END if before is None else before, limit, status)
        return [GroupView(**row) for row in rows]

    async def list_audit(self, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditView]:
        """Return at most *limit* entries numbered below *before*, newest first."""
        given = wanted.model_dump(exclude_none=True)
        conditions = " AND ".join(["number < $1", *(f"{name} = ${at}" for at, name in enumerate(given, start=3))])
        statement = f"SELECT * FROM ops.audit WHERE {conditions} ORDER BY number DESC LIMIT $2"  # noqa: S608 (as above)
        rows = await self._fetch(statement, END if before is None else before, limit, *given.values())
        return [AuditView(**row) for row in rows]

    async def counts(self) -> LetterCounts:
        """Return how many dead letters have each status."""
        async with acquired(self._pool) as connection:
            return LetterCounts(**{status: await connection.fetchval(_COUNTS, status) for status in LetterStatus})


def _view(row: Record) -> LetterView:
    found = dict(row)
    body: bytes = found.pop("body")
    headers = json.loads(found.pop("headers"))
    return LetterView(**found, headers=headers, body_base64=base64.b64encode(body).decode(), body_text=_as_text(body))


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
