-- Webhook endpoints, the public events that they want, and one delivery for each pair of these.
--
-- A delivery's way:
--
--     waiting ──relay──▶ queued ──attempt──▶ delivered
--        ▲                 └──▶ retrying ──▶ delivered, or failed (a dead letter, which can be replayed)
--        └── resent on request, or its endpoint is disabled

-- Role: what the service acts as. Its privileges are at the end of this file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modelswap_notifier') THEN
        CREATE ROLE modelswap_notifier NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole server: a migration of another database created it first.
    NULL;
END $$;

-- The owner of the schema may act as the role as well, unless memberships are managed elsewhere.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'modelswap_notifier', 'USAGE') THEN
        EXECUTE format('GRANT modelswap_notifier TO %I', current_user);
    END IF;
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN
    NULL;
END $$;

CREATE TABLE notifier.endpoints (
    -- Order of creation: pages are sorted by it.
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id              uuid NOT NULL UNIQUE,
    url             text NOT NULL CHECK (char_length(url) BETWEEN 1 AND 2048),
    -- Routing keys of the wanted events.
    events          text[] NOT NULL CHECK (cardinality(events) > 0),
    description     text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),

    -- paused: on request. gone: it answered 410. failing: for days all attempts failed.
    status          text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'paused', 'gone', 'failing')),
    status_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The first failure since the last success.
    failing_since   timestamptz,
    -- Failed attempts since the last success; counts only while failing_since is set.
    failed_attempts integer NOT NULL DEFAULT 0,
    last_success_at timestamptz,
    -- It asked for no request before this time (Retry-After).
    not_before      timestamptz,

    -- The signing secret is not stored: it is derived from this salt and the master secret with this name.
    salt            text NOT NULL,
    master          text NOT NULL,
    -- The secret before the last rotation, which signs as well until then.
    old_salt        text,
    old_master      text,
    old_until       timestamptz,

    CONSTRAINT endpoints_old_secret_is_whole CHECK (num_nulls(old_salt, old_master, old_until) IN (0, 3))
);

CREATE INDEX endpoints_disabled ON notifier.endpoints (number) WHERE status IN ('gone', 'failing');

CREATE TABLE notifier.events (
    id          text PRIMARY KEY,
    type        text NOT NULL,
    training_id text NOT NULL,
    -- Trace context, for the messages about it.
    trace       json NOT NULL,
    -- The CloudEvent as it is sent, byte for byte.
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX events_by_age ON notifier.events (created_at);

CREATE TABLE notifier.deliveries (
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id              uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    endpoint_id     uuid NOT NULL REFERENCES notifier.endpoints (id) ON DELETE CASCADE,
    event_id        text NOT NULL REFERENCES notifier.events ON DELETE CASCADE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    status          text NOT NULL DEFAULT 'waiting' CHECK (
        status IN ('waiting', 'queued', 'retrying', 'delivered', 'failed')),
    -- Time of the last change of status, or attempt.
    status_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Rises when it is sent again on request: a message with a lower number is out of date.
    sending         integer NOT NULL DEFAULT 1 CHECK (sending > 0),
    -- Begin of this sending's time limit.
    sent_at         timestamptz,
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- The last attempt: status of the response (null: there was none), its beginning or the error, and how long it took.
    response_status integer,
    response        text,
    took_ms         integer,

    UNIQUE (endpoint_id, event_id)
);

CREATE INDEX deliveries_by_endpoint ON notifier.deliveries (endpoint_id, number);
CREATE INDEX deliveries_by_event ON notifier.deliveries (event_id);
CREATE INDEX deliveries_waiting ON notifier.deliveries (endpoint_id, number) WHERE status = 'waiting';
CREATE INDEX deliveries_in_broker ON notifier.deliveries (endpoint_id, status) WHERE status IN ('queued', 'retrying');
CREATE INDEX deliveries_lost ON notifier.deliveries (status_at) WHERE status IN ('queued', 'retrying');

-- How far the events log has been read: stored in the transaction that stores the deliveries of what was read.
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
-- No event is missed: an endpoint cannot be older than this.
INSERT INTO notifier.position (published_at) VALUES (clock_timestamp());

-- Requests with an Idempotency-Key, and what each made; the answer is always read from that.
CREATE TABLE notifier.idempotency_keys (
    key            text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 255),
    request_digest text NOT NULL,
    made           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX idempotency_keys_by_age ON notifier.idempotency_keys (created_at);

GRANT USAGE ON SCHEMA notifier TO modelswap_notifier;
GRANT SELECT ON notifier.migrations TO modelswap_notifier;
GRANT SELECT, INSERT, DELETE ON notifier.endpoints TO modelswap_notifier;
GRANT UPDATE (url, events, description, status, status_at, failing_since, failed_attempts, last_success_at, not_before,
              salt, master, old_salt, old_master, old_until) ON notifier.endpoints TO modelswap_notifier;
GRANT SELECT, UPDATE ON notifier.position TO modelswap_notifier;
GRANT SELECT, INSERT, DELETE ON notifier.events TO modelswap_notifier;
GRANT SELECT, INSERT, DELETE ON notifier.deliveries TO modelswap_notifier;
GRANT UPDATE (status, status_at, sending, sent_at, attempts, response_status, response, took_ms)
    ON notifier.deliveries TO modelswap_notifier;
GRANT SELECT, INSERT, DELETE ON notifier.idempotency_keys TO modelswap_notifier;
