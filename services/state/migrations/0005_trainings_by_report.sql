-- no-transaction
-- Ends of trainings by the time of their report, so that their statistics are read from this index alone.
CREATE INDEX CONCURRENTLY IF NOT EXISTS trainings_by_report ON state.trainings (reported_at) INCLUDE (webhook_missed)
    WHERE webhook_missed IS NOT NULL;
