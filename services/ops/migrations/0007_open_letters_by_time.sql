-- no-transaction
-- The oldest open dead letter: a number says in which order they were stored, and one that was resolved may open again.
CREATE INDEX CONCURRENTLY IF NOT EXISTS letters_open_by_time ON ops.letters (archived_at) WHERE status = 'open';
