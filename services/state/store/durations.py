"""Statistics of how long the trainings of each trainer take. Edge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.state.estimate import MIN_TRAININGS
from services.state.store.session import Session
from shared.runtime.postgres import Connection

#: How many of a trainer's last trainings count. One that took longer than a day has a wrong date.
_LAST: Final = 100
_LONGEST_TRAINING: Final = timedelta(days=1)

_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('state.trainer_durations', 0))"
_SUCCEEDED: Final = """
    t.stage IN ('verifying', 'active', 'replaced', 'superseded', 'unverified') AND t.trainer IS NOT NULL
"""
# Otherwise the planner may read all trainings of a trainer to find the last ones.
_FOLLOW_THE_INDEX: Final = "SET LOCAL enable_bitmapscan = off"
# Skips from one trainer to the next, however many trainings each has.
_LIST_TRAINERS: Final = f"""
    WITH RECURSIVE trainers AS (
        (SELECT split_part(t.trainer, ':', 1) AS trainer FROM state.trainings t WHERE {_SUCCEEDED} ORDER BY 1 LIMIT 1)
        UNION ALL
        SELECT (SELECT split_part(t.trainer, ':', 1) FROM state.trainings t
                WHERE {_SUCCEEDED} AND split_part(t.trainer, ':', 1) > trainers.trainer ORDER BY 1 LIMIT 1)
        FROM trainers WHERE trainers.trainer IS NOT NULL
    )
    SELECT trainer FROM trainers WHERE trainer IS NOT NULL
"""  # noqa: S608 (constants)
_UPDATE: Final = f"""
    WITH measured AS (
        SELECT trainers.trainer, count(*) AS trainings,
               percentile_cont(ARRAY[0.1, 0.5, 0.9]) WITHIN GROUP (ORDER BY seconds) AS seconds
        FROM unnest($4::text[]) AS trainers (trainer), LATERAL (
            SELECT extract(epoch FROM t.completed_at - t.started_at)::double precision AS seconds
            FROM state.trainings t
            WHERE {_SUCCEEDED} AND split_part(t.trainer, ':', 1) = trainers.trainer
            ORDER BY t.number DESC
            LIMIT $2
        ) AS took
        WHERE seconds BETWEEN 1 AND extract(epoch FROM $3::interval)
        GROUP BY trainers.trainer
        HAVING count(*) >= $1
    )
    INSERT INTO state.trainer_durations AS d (trainer, trainings, low_seconds, median_seconds, high_seconds)
    SELECT trainer, trainings, seconds[1], seconds[2], seconds[3] FROM measured
    ON CONFLICT (trainer) DO UPDATE SET
        trainings      = excluded.trainings,
        low_seconds    = excluded.low_seconds,
        median_seconds = excluded.median_seconds,
        high_seconds   = excluded.high_seconds,
        learned_at     = excluded.learned_at
    WHERE (d.trainings, d.low_seconds, d.median_seconds, d.high_seconds)
        <> (excluded.trainings, excluded.low_seconds, excluded.median_seconds, excluded.high_seconds)
    RETURNING true
"""  # noqa: S608 (constants)


class Durations(Session):
    """Durations of trainings."""

    async def list_trainers(self) -> list[str]:
        """Return the trainers of all trainings that succeeded, without their versions."""

        async def work(connection: Connection) -> list[str]:
            await connection.execute(_FOLLOW_THE_INDEX)
            return [row["trainer"] for row in await connection.fetch(_LIST_TRAINERS)]

        return await self._transaction(work)

    async def update_durations(self, trainers: Sequence[str]) -> int:
        """Compute the statistics of *trainers* from their last trainings; return how many changed."""

        async def work(connection: Connection) -> int:
            if not await connection.fetchval(_TRY_LOCK):
                return 0
            await connection.execute(_FOLLOW_THE_INDEX)
            return len(await connection.fetch(_UPDATE, MIN_TRAININGS, _LAST, _LONGEST_TRAINING, trainers))

        return await self._transaction(work)
