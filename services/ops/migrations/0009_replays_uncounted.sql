-- no-transaction
-- Replays at rest whose dead letters are to be counted.
CREATE INDEX CONCURRENTLY IF NOT EXISTS replays_uncounted ON ops.replays (number)
    WHERE counts IS NULL AND status NOT IN ('previewing', 'running') AND undo_status IS DISTINCT FROM 'undoing';
