-- Failed attempts since the last success; counts only while failing_since is set.
ALTER TABLE notifier.endpoints ADD COLUMN failed_attempts integer NOT NULL DEFAULT 0;
GRANT UPDATE (failed_attempts) ON notifier.endpoints TO modelswap_notifier;
