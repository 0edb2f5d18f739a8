-- For the timeline of a training, the statistics of swaps, and the search.

-- What each applied event said and did. Null in rows from before this file.
ALTER TABLE state.inbox
    ADD COLUMN ref         uuid,
    -- Its routing key.
    ADD COLUMN event       text,
    -- When it was made: of a webhook, when the receiver took it.
    ADD COLUMN occurred_at timestamptz,
    -- The stage it moved its training to; null if it moved none.
    ADD COLUMN stage       text,
    ADD COLUMN detail      json;
CREATE INDEX inbox_by_training ON state.inbox (ref) WHERE ref IS NOT NULL;

-- When the end of the training was reported, by a webhook or by a poll.
ALTER TABLE state.trainings ADD COLUMN reported_at timestamptz;
GRANT UPDATE (reported_at) ON state.trainings TO modelswap_state;
-- The same of a swap's training, so that the time from webhook to swap is read from this index alone.
ALTER TABLE state.model_history ADD COLUMN reported_at timestamptz;
CREATE INDEX model_history_by_time ON state.model_history (at) INCLUDE (cause, reported_at);

-- The ids of other events in the outbox follow from the history, so they are found without an index of their own.
CREATE INDEX outbox_requests ON state.outbox (training_id) WHERE routing_key = 'extraction.requested.v1';

-- Search: users by the beginning of their id, models by any part of their name that begins a word.
CREATE INDEX users_by_prefix ON state.users (user_id COLLATE "C");

CREATE TABLE state.model_parts (
    -- The name from one of its words on: of acme/user-42 there are acme/user-42, user-42 and 42.
    part text COLLATE "C" NOT NULL,
    name text NOT NULL,

    PRIMARY KEY (part, name)
);

CREATE FUNCTION state.parts_of(name text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    SELECT substr(name, place) FROM generate_series(1, char_length(name)) AS place
    WHERE place = 1 OR substr(name, place - 1, 1) IN ('/', '.', '_', '-')
    ORDER BY place
    LIMIT 20
$$;

INSERT INTO state.model_parts (part, name)
SELECT state.parts_of(name), name FROM (SELECT DISTINCT destination::text AS name FROM state.trainings) AS known;

GRANT SELECT, INSERT ON state.model_parts TO modelswap_state;
