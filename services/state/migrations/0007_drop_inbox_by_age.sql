-- no-transaction
-- Replaced by inbox_by_time. Its summaries never shrink: once the place of deleted rows is used again, it finds every block.
DROP INDEX CONCURRENTLY IF EXISTS state.inbox_by_age;
