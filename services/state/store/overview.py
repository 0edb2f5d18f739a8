"""Queries about all trainings: counts, statistics of swaps, search. Each reads few rows of large tables. Edge."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from services.state.measures import Backlog, CheckedUsers
from services.state.overview import (
    HourStatistics,
    HourWebhooks,
    SearchHit,
    SearchResults,
    StageCount,
    SwapStatistics,
    SwapStatisticsView,
    UserSwapView,
    WebhookStatistics,
    WebhookStatisticsView,
)
from services.state.store.session import Session
from services.state.transitions import Stage
from shared.contract.identity import ModelRef, parse_ref
from shared.runtime.postgres import Connection, Record, acquired

#: So many are counted; more are estimated.
_EXACT: Final = 10_000
_PENDING_MOST: Final = 100_000

_COUNTS: Final = """
    WITH known AS MATERIALIZED (
        -- What Postgres knows since it last analyzed the table.
        SELECT c.reltuples AS trainings, p.most_common_vals::text::text[] AS stages, p.most_common_freqs AS shares
        FROM pg_class c, pg_stats p
        WHERE c.oid = 'state.trainings'::regclass
          AND (p.schemaname, p.tablename, p.attname) = ('state', 'trainings', 'stage')
    )
    SELECT s.stage,
           (SELECT count(*) FROM (SELECT FROM state.trainings t WHERE t.stage = s.stage ORDER BY t.number LIMIT $2) x)
               AS counted,
           (SELECT trainings * shares[array_position(stages, s.stage)] FROM known) AS estimated
    FROM unnest($1::text[]) WITH ORDINALITY AS s (stage, place)
    ORDER BY place
"""
# From an index alone. Floats, because numbers of any precision take much longer.
_STATISTICS: Final = """
    WITH now AS (
        SELECT floor(date_part('epoch', statement_timestamp()) / 3600)::bigint AS hour
    ), swaps AS (
        SELECT floor(date_part('epoch', at) / 3600)::bigint AS hour,
               CASE WHEN cause = 'training' THEN greatest(0, date_part('epoch', at - reported_at)) END AS seconds
        FROM state.model_history
        WHERE at >= to_timestamp(3600 * ((SELECT hour FROM now) - $1 + 1)) AND cause <> 'withdrawal'
    ), counted AS (
        SELECT hour, count(*) AS swaps, percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY seconds) AS seconds
        FROM swaps
        GROUP BY GROUPING SETS ((hour), ())
    ), hours AS (
        SELECT hour - ago AS hour FROM now, generate_series(0, $1 - 1) AS ago UNION ALL SELECT NULL
    )
    SELECT to_timestamp(3600 * h.hour) AS hour, coalesce(c.swaps, 0) AS swaps, c.seconds[1] AS p50_seconds,
           c.seconds[2] AS p99_seconds
    FROM hours h LEFT JOIN counted c ON c.hour IS NOT DISTINCT FROM h.hour
    ORDER BY h.hour NULLS LAST
"""
# From an index alone.
WEBHOOKS: Final = """
    WITH now AS (
        SELECT floor(date_part('epoch', statement_timestamp()) / 3600)::bigint AS hour
    ), ends AS (
        SELECT floor(date_part('epoch', reported_at) / 3600)::bigint AS hour, webhook_missed
        FROM state.trainings
        WHERE reported_at >= to_timestamp(3600 * ((SELECT hour FROM now) - $1 + 1)) AND webhook_missed IS NOT NULL
    ), counted AS (
        SELECT hour, count(*) AS ended, count(*) FILTER (WHERE webhook_missed) AS missed
        FROM ends
        GROUP BY GROUPING SETS ((hour), ())
    ), hours AS (
        SELECT hour - ago AS hour FROM now, generate_series(0, $1 - 1) AS ago UNION ALL SELECT NULL
    )
    SELECT to_timestamp(3600 * h.hour) AS hour, coalesce(c.ended, 0) AS ended, coalesce(c.missed, 0) AS missed,
           c.missed::float8 / nullif(c.ended, 0) AS missed_share
    FROM hours h LEFT JOIN counted c ON c.hour IS NOT DISTINCT FROM h.hour
    ORDER BY h.hour NULLS LAST
"""
# All swaps of one moment are on one page: there are at most as many as events in a batch.
_LIST_SWAPS: Final = """
    SELECT h.user_id, h.generation, h.model::text AS reference, h.previous_model::text AS previous_reference,
           (SELECT t.training_id FROM state.trainings t WHERE t.ref = h.ref) AS training_id, h.ref, h.trigger_word,
           h.cause, h.actor, h.reason, h.at
    FROM state.model_history h
    WHERE h.at >= $1 AND h.at < $2
    ORDER BY h.at DESC
    FETCH FIRST $3 ROWS WITH TIES
"""

_BACKLOG: Final = """
    SELECT count(*) AS events,
           coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds
    FROM (
        SELECT created_at FROM state.outbox
        WHERE published_at IS NULL AND set_aside_at IS NULL
        ORDER BY id
        LIMIT $1
    ) pending
"""
# Who had a model and did not have it withdrawn must have one. One statement sees all tables as of one moment.
_CHECK_USERS: Final = """
    WITH page AS MATERIALIZED (
        SELECT user_id, deleted_at FROM state.users WHERE user_id > $1 ORDER BY user_id LIMIT $2
    ), checked AS (
        SELECT user_id,
               deleted_at IS NULL
               AND NOT EXISTS (SELECT FROM state.user_models m WHERE m.user_id = page.user_id)
               AND (SELECT h.cause FROM state.model_history h
                    WHERE h.user_id = page.user_id ORDER BY h.generation DESC LIMIT 1) <> 'withdrawal' AS lacks_model
        FROM page
    )
    SELECT count(*) FILTER (WHERE lacks_model) AS without_model, CASE WHEN count(*) = $2 THEN max(user_id) END AS last
    FROM checked
"""

_TRAINING: Final = """
    SELECT 'training' AS kind, coalesce(training_id, ref::text) AS name, user_id, ref, stage, model::text AS reference
    FROM state.trainings
"""
_BY_ID: Final = _TRAINING + "WHERE training_id = $1"
_BY_REF: Final = _TRAINING + "WHERE ref = $1"
_BY_MODEL: Final = _TRAINING + "WHERE model = $1 ORDER BY number DESC LIMIT $2"
_USERS: Final = """
    SELECT 'user' AS kind, u.user_id AS name, u.user_id, NULL::uuid AS ref, NULL AS stage,
           (SELECT m.model::text FROM state.user_models m WHERE m.user_id = u.user_id) AS reference
    FROM state.users u
    WHERE u.user_id COLLATE "C" >= $1 AND u.user_id COLLATE "C" < $2
    ORDER BY u.user_id COLLATE "C"
    LIMIT $3
"""
_MODELS: Final = """
    SELECT 'model' AS kind, name, CASE WHEN first_user = last_user THEN first_user END AS user_id, NULL::uuid AS ref,
           NULL AS stage, NULL AS reference
    FROM (
        SELECT p.name,
               (SELECT min(t.user_id) FROM state.trainings t WHERE t.destination = p.name) AS first_user,
               (SELECT max(t.user_id) FROM state.trainings t WHERE t.destination = p.name) AS last_user
        FROM (
            SELECT part, name FROM state.model_parts WHERE part >= $1 AND part < $2 ORDER BY part, name LIMIT $3
        ) p
    ) found
"""
#: Greater than any character of a text.
_LAST: Final = "\U0010ffff"


class Overview(Session):
    """Answers questions about all trainings."""

    async def count_trainings(self, *, exact: int = _EXACT) -> list[StageCount]:
        """Count the trainings of each stage, up to *exact*; estimate larger counts."""
        rows = await self._fetch(_COUNTS, [stage.value for stage in Stage], exact + 1)
        return [_to_count(row, exact) for row in rows]

    async def swap_statistics(self, hours: int) -> SwapStatisticsView:
        """Return statistics of the swaps of the last *hours*, the current one included."""
        *rows, total = [dict(row) for row in await self._fetch(_STATISTICS, hours)]
        return SwapStatisticsView(
            total=SwapStatistics.model_validate(total), items=[HourStatistics.model_validate(row) for row in rows]
        )

    async def webhook_statistics(self, hours: int) -> WebhookStatisticsView:
        """Return how many trainings ended in the last *hours*, the current one included, and without a webhook."""
        *rows, total = [dict(row) for row in await self._fetch(WEBHOOKS, hours)]
        return WebhookStatisticsView(
            total=WebhookStatistics.model_validate(total), items=[HourWebhooks.model_validate(row) for row in rows]
        )

    async def measure_outbox(self) -> Backlog:
        """Return how many events wait to be published, up to 100,000, and how long the oldest has waited."""
        return Backlog(*(await self._fetch(_BACKLOG, _PENDING_MOST))[0])

    async def check_users(self, *, after: str, limit: int) -> CheckedUsers:
        """Look at *limit* users with ids above *after*: how many lost their model?"""
        return CheckedUsers(*(await self._fetch(_CHECK_USERS, after, limit))[0])

    async def list_swaps(self, *, since: datetime, until: datetime, limit: int) -> list[UserSwapView]:
        """Return *limit* changes of users' models, newest first, and all others of the time of the last one."""
        return [UserSwapView.model_validate(dict(row)) for row in await self._fetch(_LIST_SWAPS, since, until, limit)]

    async def search(self, text: str, *, limit: int) -> SearchResults:
        """Find trainings by id, ref or model, users by the beginning of their id, models by a part of their name."""
        async with acquired(self._pool) as connection:
            trainings = await _find_trainings(connection, text, limit + 1)
            users = await connection.fetch(_USERS, text, text + _LAST, limit + 1)
            part = text.lower()
            parts = await connection.fetch(_MODELS, part, part + _LAST, 2 * limit + 1)
        # A name with several such parts is found as often.
        found = [trainings, users, list({row["name"]: row for row in parts}.values())]
        hits = [SearchHit.model_validate(dict(row)) for rows in found for row in rows[:limit]]
        is_complete = all(len(rows) <= limit for rows in found) and len(parts) <= 2 * limit
        return SearchResults(items=hits, is_complete=is_complete)


async def _find_trainings(connection: Connection, text: str, limit: int) -> list[Record]:
    ref: UUID | None = parse_ref(text)
    if ref is not None:
        return await connection.fetch(_BY_REF, ref)
    if (model := ModelRef.parse(text)) is not None:
        return await connection.fetch(_BY_MODEL, str(model), limit)
    return await connection.fetch(_BY_ID, text)


def _to_count(row: Record, exact: int) -> StageCount:
    is_exact = row["counted"] <= exact
    count = row["counted"] if is_exact else max(row["counted"], round(row["estimated"] or 0))
    return StageCount(stage=row["stage"], count=count, is_exact=is_exact)
