-- no-transaction
-- The oldest applied events, to delete them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS inbox_by_time ON state.inbox (received_at);
