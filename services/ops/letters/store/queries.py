"""What the API shows of dead letters. Edge."""

from __future__ import annotations

import base64
import json
from codecs import getincrementaldecoder
from typing import Final

from services.ops.letters.views import (
    Facet,
    Filter,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
    Suggestions,
    ValueCount,
)
from services.ops.letters.where import where
from services.ops.session import Session
from services.ops.where import by_number
from shared.contract.answers import END
from shared.contract.headers import trace_id_in
from shared.runtime.postgres import Record

_LINE: Final = """
    number, status, queue, event_type, event_id, training_id, user_id, error_code, error_class, error_text, attempts,
    returns, first_failed_at, last_failed_at, archived_at, status_at, status_reason, fingerprint,
    replay_id,
    octet_length(body) AS body_bytes
"""
_FIND: Final = f"""
    SELECT {_LINE}, exchange, routing_key, content_type, headers::text AS headers, traceback,
           CASE WHEN $2::integer IS NULL THEN body ELSE substring(body FROM 1 FOR $2) END AS body
    FROM ops.letters WHERE number = $1
"""  # noqa: S608 (our own columns)
_FIND_BODY: Final = "SELECT body FROM ops.letters WHERE number = $1"

# From one fingerprint straight to the next, however many dead letters it has; then each is counted from its index.
# By their oldest dead letters, which do not change: so pages are stable, and a new kind of failure stands first.
_GROUPS: Final = """
    WITH RECURSIVE kinds AS (
        (SELECT fingerprint, number AS oldest FROM ops.letters WHERE $5::text IS NULL OR fingerprint = $5
         ORDER BY fingerprint, number LIMIT 1)
        UNION ALL
        SELECT following.* FROM kinds, LATERAL (
            SELECT fingerprint, number FROM ops.letters WHERE fingerprint > kinds.fingerprint
            ORDER BY fingerprint, number LIMIT 1
        ) AS following
        WHERE $5 IS NULL
    ), page AS (
        SELECT fingerprint, oldest,
               (SELECT number FROM ops.letters WHERE fingerprint = kinds.fingerprint ORDER BY number DESC LIMIT 1)
                   AS newest
        FROM kinds
        WHERE oldest < $1
          AND ($3::text IS NULL OR EXISTS (
              SELECT FROM ops.letters WHERE fingerprint = kinds.fingerprint AND status = $3))
        ORDER BY oldest DESC
        LIMIT $2
    )
    SELECT page.fingerprint, page.oldest, page.newest, counted.*, trend.hourly, example.queue, example.error_code,
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
               max(last_failed_at) AS last_failed_at,
               count(*) FILTER (WHERE number > $4) AS new
        FROM ops.letters WHERE fingerprint = page.fingerprint
    ) AS counted, LATERAL (
        SELECT array_agg(coalesce(failed.count, 0) ORDER BY ago DESC) AS hourly
        FROM generate_series(0, 23) AS ago LEFT JOIN (
            SELECT count(*),
                   greatest(floor(extract(epoch FROM statement_timestamp() - last_failed_at) / 3600), 0)::integer AS ago
            FROM ops.letters
            WHERE fingerprint = page.fingerprint AND last_failed_at > statement_timestamp() - interval '1 day'
            GROUP BY ago
        ) AS failed USING (ago)
    ) AS trend, LATERAL (
        SELECT queue, error_code, error_class, error_text FROM ops.letters WHERE number = page.newest
    ) AS example
    ORDER BY page.oldest DESC
"""

#: How many dead letters are looked at for suggestions, and how many values of each field are suggested.
_LOOKED_AT: Final = 10_000
_SUGGESTED: Final = 20
# Each field apart, from the same rows; without a field, all of them.
_SUGGEST: Final = """
    WITH counted AS (
        SELECT CASE 0 {names} END AS facet, coalesce({facets}) AS value, count(*) AS letters
        FROM (SELECT {facets} FROM ops.letters WHERE {where} ORDER BY {order} DESC LIMIT {limit}) AS found
        GROUP BY GROUPING SETS ({sets}, ())
    ), placed AS (
        SELECT *, row_number() OVER (PARTITION BY facet ORDER BY letters DESC, value COLLATE "C") AS place
        FROM counted WHERE facet IS NULL OR value IS NOT NULL
    )
    SELECT facet, value, letters FROM placed WHERE place <= {most} ORDER BY facet, letters DESC, value COLLATE "C"
"""

_COUNTED_MOST: Final = 100_000
_COUNT_SOME: Final = """
    SELECT s.status,
           (SELECT count(*) FROM (
               SELECT FROM ops.letters l WHERE l.status = s.status ORDER BY l.number LIMIT $2
           ) found) AS letters
    FROM unnest($1::text[]) AS s (status)
"""
_OLDEST_SECONDS: Final = """
    SELECT extract(epoch FROM clock_timestamp() - archived_at)::float8 AS seconds
    FROM ops.letters WHERE status = 'open' ORDER BY archived_at LIMIT 1
"""
_COUNTS: Final = "SELECT status, count(*) FROM ops.letters GROUP BY status"


class Queries(Session):
    """Reads only. Pages go down by number: what arrives meanwhile has a higher one, and moves nothing."""

    async def find(self, number: int, *, body_limit_bytes: int | None = None) -> LetterView | None:
        """Return a dead letter with at most *body_limit_bytes* of its body (None: all); None if it does not exist."""
        rows = await self._fetch(_FIND, number, body_limit_bytes)
        return _view(rows[0]) if rows else None

    async def find_body(self, number: int) -> bytes | None:
        rows = await self._fetch(_FIND_BODY, number)
        return rows[0]["body"] if rows else None

    async def suggest(self, wanted: Filter) -> Suggestions:
        """Return the most frequent values among the newest dead letters that *wanted* finds."""
        conditions, values = where(wanted)
        statement = _SUGGEST.format(
            facets=", ".join(Facet),
            where=conditions,
            order=by_number(wanted.text),
            # One more than is shown, to know whether there are more.
            limit=_LOOKED_AT + 1,
            names=" ".join(f"WHEN grouping({facet}) THEN '{facet}'" for facet in Facet),
            sets=", ".join(f"({facet})" for facet in Facet),
            most=_SUGGESTED,
        )
        found: dict[Facet, list[ValueCount]] = {facet: [] for facet in Facet}
        letters = 0
        for row in await self._fetch(statement, *values):
            if row["facet"] is None:
                letters = row["letters"]
            else:
                found[Facet(row["facet"])].append(ValueCount(value=row["value"], letters=row["letters"]))
        return Suggestions(letters=min(letters, _LOOKED_AT), is_complete=letters <= _LOOKED_AT, values=found)

    async def list_letters(self, wanted: Filter, *, before: int = END, limit: int) -> list[LetterLine]:
        """Return at most *limit* dead letters numbered below *before*, newest first."""
        found, values = where(wanted)
        found += f" AND number < ${len(values) + 1} ORDER BY {by_number(wanted.text)} DESC LIMIT ${len(values) + 2}"
        statement = f"SELECT {_LINE} FROM ops.letters WHERE {found}"  # noqa: S608 (our own columns)
        rows = await self._fetch(statement, *values, before, limit)
        return [LetterLine(**row) for row in rows]

    async def list_groups(
        self,
        status: LetterStatus | None,
        *,
        before: int = END,
        limit: int,
        seen: int | None = None,
        fingerprint: str | None = None,
    ) -> list[GroupView]:
        """
        Return at most *limit* groups whose oldest dead letter is numbered below *before*, the newest kind first.

        Dead letters numbered above *seen* are counted as new. With a *fingerprint*, only that group.
        """
        rows = await self._fetch(_GROUPS, before, limit, status, END if seen is None else seen, fingerprint)
        return [GroupView(**row) for row in rows]

    async def counts(self) -> LetterCounts:
        return LetterCounts(**{row["status"]: row["count"] for row in await self._fetch(_COUNTS)})

    async def count_some(self) -> dict[LetterStatus, int]:
        """Count the dead letters of each status, up to 100,000."""
        rows = await self._fetch(_COUNT_SOME, list(LetterStatus), _COUNTED_MOST)
        return {LetterStatus(row["status"]): row["letters"] for row in rows}

    async def oldest_seconds(self) -> float:
        """Return how long ago the oldest open dead letter came; 0 if none is open."""
        rows = await self._fetch(_OLDEST_SECONDS)
        return float(rows[0]["seconds"]) if rows else 0.0


def _view(row: Record) -> LetterView:
    found = dict(row)
    body: bytes = found.pop("body")
    headers = json.loads(found.pop("headers"))
    text = _as_text(body, is_whole=len(body) == found["body_bytes"])
    return LetterView(
        **found,
        headers=headers,
        trace_id=trace_id_in(headers.get("traceparent")),
        body_base64=base64.b64encode(body).decode(),
        body_text=text,
    )


def _as_text(body: bytes, *, is_whole: bool) -> str | None:
    try:
        # A body that is cut may end within a character.
        return getincrementaldecoder("utf-8")().decode(body, final=is_whole)
    except UnicodeDecodeError:
        return None
