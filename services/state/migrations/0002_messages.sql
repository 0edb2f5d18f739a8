-- What came in, what is to go out, and what the API was already asked.

-- Ids of the events that were applied: a shortcut for duplicates. Nothing depends on it, so old rows may go.
CREATE TABLE state.inbox (
    event_id    text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX inbox_by_age ON state.inbox USING brin (received_at);

-- Events, exactly as they will be published, written in the same transaction as what they tell.
CREATE TABLE state.outbox (
    -- Drawn under the user's lock, so that one user's events are published in the order of their commits.
    id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    event_id     text NOT NULL UNIQUE,
    user_id      text NOT NULL,
    generation   bigint NOT NULL,
    routing_key  text NOT NULL,
    headers      json NOT NULL,
    body         json NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON state.outbox (id) WHERE published_at IS NULL;

-- Which training a request with an Idempotency-Key registered; the answer is always read from the training.
CREATE TABLE state.idempotency_keys (
    key            text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 255),
    request_digest text NOT NULL,
    ref            uuid NOT NULL REFERENCES state.trainings DEFERRABLE INITIALLY DEFERRED,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX idempotency_keys_by_age ON state.idempotency_keys USING brin (created_at);

GRANT SELECT, INSERT, DELETE ON state.inbox, state.idempotency_keys TO modelswap_state;
GRANT SELECT, INSERT, UPDATE (published_at), DELETE ON state.outbox TO modelswap_state;
