-- How far the notifier has read the events log: stored in the transaction that stores the deliveries of what it read.

CREATE TABLE notifier.position (
    only_one     boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    -- The last event that was read, and a hash of it: a log that was made anew counts from 0 again. Null before the first.
    "offset"     bigint CHECK ("offset" >= 0),
    fingerprint  text NOT NULL DEFAULT '',
    -- When that event was published. Before the first: where to begin.
    published_at timestamptz NOT NULL,
    -- The last gap: events that were deleted from the log before they were read.
    gap          text,
    gap_at       timestamptz
);

-- No event is missed: an endpoint cannot be older than this. A version that had a queue for the events stored the last of
-- them at the given time; some may have been left in the queue.
INSERT INTO notifier.position (published_at)
SELECT coalesce(max(created_at), clock_timestamp()) FROM notifier.events;

GRANT SELECT, UPDATE ON notifier.position TO modelswap_notifier;
