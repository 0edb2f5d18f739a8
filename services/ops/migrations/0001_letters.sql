-- Dead letters, byte for byte, and who did what about them.
--
-- What must never be is refused here, whatever the code above does:
--   * a letter that is not settled can not vanish, and what it was can not be changed      letters_guard
--   * the audit is only added to                                                           no right to anything else

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modelswap_ops') THEN
        CREATE ROLE modelswap_ops NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole cluster: another of its databases was faster.
    NULL;
END $$;

-- Whoever owns the schema may act as the role, too, unless somebody else decides on memberships here.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'modelswap_ops', 'USAGE') THEN
        EXECUTE format('GRANT modelswap_ops TO %I', current_user);
    END IF;
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN
    NULL;
END $$;

CREATE TABLE ops.letters (
    -- The order of arrival, for pages, and what operators call a letter by.
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- Derived from the message, so that one that is handed over twice is kept once.
    digest          text NOT NULL UNIQUE,
    -- The queue it was consumed from, and goes back to.
    queue           text NOT NULL,
    exchange        text NOT NULL,
    routing_key     text NOT NULL,
    content_type    text,
    -- Its own headers as it was published, without what was added when it died. JSON.
    headers         json NOT NULL,
    body            bytea NOT NULL,
    -- What could be read of it; null where nothing could.
    event_type      text,
    event_id        text,
    training_id     text,
    -- Whose training it is, once state was asked.
    user_id         text,
    error_code      text NOT NULL,
    error_class     text NOT NULL,
    error_text      text NOT NULL,
    traceback       text NOT NULL,
    attempts        integer NOT NULL CHECK (attempts > 0),
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    archived_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Equal for letters that most likely have one cause: queue, class and normalised text.
    fingerprint     text NOT NULL,
    status          text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'replaying', 'resolved', 'dropped')),
    -- How often a replay of it failed again.
    returns         integer NOT NULL DEFAULT 0 CHECK (returns >= 0),
    -- The replay that has it now, or had it last.
    replay_id       uuid,
    -- Since when it has this status; kept by letters_guard.
    status_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT letters_replaying_has_replay CHECK (status <> 'replaying' OR replay_id IS NOT NULL)
);

CREATE INDEX letters_by_status ON ops.letters (status, number);
-- Groups are counted from this one alone.
CREATE INDEX letters_by_fingerprint ON ops.letters (fingerprint, number) INCLUDE (status, last_failed_at);
CREATE INDEX letters_by_queue ON ops.letters (queue, number);
CREATE INDEX letters_by_code ON ops.letters (error_code, number);
CREATE INDEX letters_by_class ON ops.letters (error_class, number);
CREATE INDEX letters_by_type ON ops.letters (event_type, number) WHERE event_type IS NOT NULL;
CREATE INDEX letters_by_time ON ops.letters (last_failed_at);
-- The words of what went wrong: whatever stands between letters and digits parts them.
CREATE INDEX letters_by_words ON ops.letters
    USING gin (to_tsvector('simple', regexp_replace(error_class || ' ' || error_text, '[^[:alnum:]]+', ' ', 'g')));
CREATE INDEX letters_by_training ON ops.letters (training_id, number) WHERE training_id IS NOT NULL;
CREATE INDEX letters_by_user ON ops.letters (user_id, number) WHERE user_id IS NOT NULL;

-- Of whom is not known yet.
CREATE INDEX letters_without_user ON ops.letters (number) WHERE user_id IS NULL AND training_id IS NOT NULL;
CREATE INDEX letters_settled ON ops.letters (status_at) WHERE status IN ('resolved', 'dropped');

CREATE FUNCTION ops.guard_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (new.number, new.digest, new.queue, new.exchange, new.routing_key, new.content_type, new.headers::text, new.body)
            IS DISTINCT FROM
           (old.number, old.digest, old.queue, old.exchange, old.routing_key, old.content_type, old.headers::text, old.body)
        THEN
            RAISE EXCEPTION 'what letter % was can not be changed', old.number USING ERRCODE = '23514';
        END IF;
        IF new.status <> old.status THEN
            new.status_at := clock_timestamp();
        END IF;
        RETURN new;
    END IF;
    IF old.status NOT IN ('resolved', 'dropped') THEN
        RAISE EXCEPTION 'letter % is not settled, so it stays', old.number USING ERRCODE = '23514';
    END IF;
    RETURN old;
END $$;

CREATE TRIGGER letters_guard BEFORE UPDATE OR DELETE ON ops.letters
    FOR EACH ROW EXECUTE FUNCTION ops.guard_letters();

-- Who did what, why, and what came of it.
CREATE TABLE ops.audit (
    number  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The name of the token that asked; `ops` for what it does of itself.
    actor   text NOT NULL,
    -- Such as replay.started, letter.dropped.
    action  text NOT NULL,
    -- Such as letter 17, replay 5f0e…, user 42.
    target  text NOT NULL,
    reason  text NOT NULL,
    outcome text NOT NULL
);

CREATE INDEX audit_by_actor ON ops.audit (actor, number);
CREATE INDEX audit_by_action ON ops.audit (action, number);
CREATE INDEX audit_by_target ON ops.audit (target, number);

-- What a request with an Idempotency-Key made; the answer is always read from that.
CREATE TABLE ops.idempotency_keys (
    key            text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 255),
    request_digest text NOT NULL,
    -- Such as a replay's id.
    made           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT USAGE ON SCHEMA ops TO modelswap_ops;
GRANT SELECT ON ops.migrations TO modelswap_ops;
GRANT SELECT, INSERT, DELETE,
    UPDATE (user_id, error_code, error_class, error_text, traceback, attempts, last_failed_at, fingerprint, status, returns,
            replay_id)
    ON ops.letters TO modelswap_ops;
GRANT SELECT, INSERT ON ops.audit TO modelswap_ops;
GRANT SELECT, INSERT, DELETE ON ops.idempotency_keys TO modelswap_ops;
