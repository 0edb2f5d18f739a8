"""Reports of progress. Edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic_core import to_json

from services.state.estimate import latest
from services.state.store.session import Session
from services.state.store.write import ESTIMATED_UNTIL, EXPECTED_SECONDS
from shared.contract.envelope import Envelope
from shared.runtime.postgres import Connection

# Replicate reports the same twice a second: a report without news writes nothing.
# Progress only rises, but for one correction: a later report with another total that is at least ten points lower
# replaces progress that had reached its end (a log continues with other work only there), or that has not changed for
# five minutes (neither a misread log nor a late webhook takes so long). A report has another total if the stored step
# is another share of it than the stored one.
# A row that another transaction has just changed is judged as it is now, but Postgres checks its constraints with the
# values of before (t) first; so columns that belong together are set by the same condition.
# IS TRUE, as in `apply`: few trainings run when a plan is made, and all that run would be read for each report later.
RECORD_PROGRESS: Final = f"""
    WITH reported AS (
        SELECT r.*, coalesce(
            (SELECT t.ref FROM state.trainings t WHERE t.training_id = r.training_id),
            (SELECT t.ref FROM state.trainings t
             WHERE t.ref = r.claimed_ref AND (t.training_id IS NULL) IS TRUE)) AS ref
        FROM json_to_recordset($1::json) AS r (
            training_id text, claimed_ref uuid, step integer, total integer, percent smallint, source text,
            at timestamptz)
    ), free AS (
        SELECT t.ref, t.step, t.progress, t.progress_at, t.updated_at
        FROM state.trainings t
        WHERE t.ref = ANY(ARRAY(SELECT ref FROM reported)) AND (t.stage IN ('requested', 'running')) IS TRUE
          AND (SELECT u.deleted_at IS NULL FROM state.users u WHERE u.user_id = t.user_id)
        FOR NO KEY UPDATE OF t SKIP LOCKED
    ), judged AS (
        SELECT r.*,
            coalesce(r.percent > coalesce(t.progress, -1), false) AS rises,
            coalesce(r.percent = t.progress AND r.step > coalesce(t.step, -1), false) AS advances,
            coalesce(
                r.percent <= t.progress - 10 AND r.at > t.progress_at AND r.total IS NOT NULL
                AND (t.step IS NULL OR abs(least(99, 100::bigint * t.step / r.total) - t.progress) > 1)
                AND (t.progress = 99 OR r.at > t.updated_at + interval '5 minutes'), false) AS corrects
        FROM reported r JOIN free t USING (ref)
    )
    UPDATE state.trainings t SET
        stage           = 'running',
        step            = CASE WHEN r.rises OR r.advances OR r.corrects THEN coalesce(r.step, t.step) ELSE t.step END,
        total_steps     = CASE WHEN r.corrects OR r.step > t.total_steps THEN coalesce(r.total, t.total_steps)
                               ELSE coalesce(t.total_steps, r.total) END,
        progress        = CASE WHEN r.rises OR r.corrects THEN r.percent ELSE t.progress END,
        progress_source = CASE WHEN r.rises OR r.corrects THEN r.source ELSE t.progress_source END,
        progress_at     = CASE WHEN r.rises OR r.corrects THEN r.at ELSE t.progress_at END,
        started_at      = coalesce(t.started_at, r.at),
        expected_seconds = CASE t.stage WHEN 'requested' THEN {EXPECTED_SECONDS} ELSE t.expected_seconds END,
        estimated_until = CASE WHEN t.stage = 'running' AND t.progress IS NULL AND r.rises THEN {ESTIMATED_UNTIL}
                               ELSE t.estimated_until END,
        updated_at      = clock_timestamp()
    FROM judged r
    WHERE t.ref = r.ref AND (t.stage IN ('requested', 'running')) IS TRUE
      AND (t.stage = 'requested' OR t.started_at IS NULL OR r.rises OR r.advances OR r.corrects
           OR (t.total_steps IS NULL AND r.total IS NOT NULL))
"""  # noqa: S608 (constants)


class ProgressReports(Session):
    """Stores progress."""

    async def record_progress(self, envelopes: Sequence[Envelope]) -> None:
        """
        Store the furthest report of each training. Trainings that are unknown, ended, locked or of a deleted user
        are skipped.

        Raises:
            DependencyDown: if Postgres is away.

        """
        rows = to_json(latest(envelopes)).decode()

        async def work(connection: Connection) -> None:
            # Progress may be lost: the next report repeats it, so this does not wait for the disk.
            await connection.execute("SET LOCAL synchronous_commit TO off")
            await connection.execute(RECORD_PROGRESS, rows)

        await self._transaction(work)
