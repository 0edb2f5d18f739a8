-- Dead letters, replays, missed webhooks, and the audit of all three.
--
-- The database refuses what must never happen, whatever the code does:
--   * an unsettled dead letter that vanishes, or one whose message changes       letters_guard
--   * a dead letter in two replays at a time                                     replay_letters_one_at_a_time
--   * a replayed letter that had its effect, called failed later                 replay_letters_guard
--   * a swap without what its undo needs                                         replay_letters_swap_is_whole
--   * a selection or an audit line that changes                                  no privilege

-- Role: what the service acts as. Its privileges are at the end of this file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modelswap_ops') THEN
        CREATE ROLE modelswap_ops NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole server: a migration of another database created it first.
    NULL;
END $$;

-- The owner of the schema may act as the role as well, unless memberships are managed elsewhere.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'modelswap_ops', 'USAGE') THEN
        EXECUTE format('GRANT modelswap_ops TO %I', current_user);
    END IF;
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN
    NULL;
END $$;

-- Dead letters

CREATE TABLE ops.letters (
    -- Order of arrival: pages are sorted by it, and operators name a letter by it.
    number          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- Derived from the message, so that one that is delivered twice is kept once.
    digest          text NOT NULL UNIQUE,

    -- The message: the queue it was consumed from and is replayed to, and how it was published. JSON headers, without
    -- those that were added when it was dead-lettered.
    queue           text NOT NULL,
    exchange        text NOT NULL,
    routing_key     text NOT NULL,
    content_type    text,
    headers         json NOT NULL,
    body            bytea NOT NULL,

    -- Read from the message; null where it can not be read.
    event_type      text,
    event_id        text,
    training_id     text,
    -- The training's user; null until state was asked.
    user_id         text,

    -- The failure.
    error_code      text NOT NULL,
    error_class     text NOT NULL,
    error_text      text NOT NULL,
    traceback       text NOT NULL,
    attempts        integer NOT NULL CHECK (attempts > 0),
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    archived_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Queue, class and normalised text: equal for letters that most likely have one cause.
    fingerprint     text NOT NULL,

    status          text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'replaying', 'resolved', 'dropped')),
    -- Number of replays of it that failed again.
    returns         integer NOT NULL DEFAULT 0 CHECK (returns >= 0),
    -- Its current replay, or its last one.
    replay_id       uuid,
    -- Time of the last change of status; set by letters_guard.
    status_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Why it is resolved though no replay resolved it; empty otherwise.
    status_reason   text NOT NULL DEFAULT '',

    CONSTRAINT letters_replaying_has_replay CHECK (status <> 'replaying' OR replay_id IS NOT NULL)
);

-- One for each filter.
CREATE INDEX letters_by_status ON ops.letters (status, number);
CREATE INDEX letters_by_queue ON ops.letters (queue, number);
CREATE INDEX letters_by_code ON ops.letters (error_code, number);
CREATE INDEX letters_by_class ON ops.letters (error_class, number);
CREATE INDEX letters_by_type ON ops.letters (event_type, number) WHERE event_type IS NOT NULL;
CREATE INDEX letters_by_training ON ops.letters (training_id, number) WHERE training_id IS NOT NULL;
CREATE INDEX letters_by_user ON ops.letters (user_id, number) WHERE user_id IS NOT NULL;
CREATE INDEX letters_by_time ON ops.letters (last_failed_at);
-- Groups are counted from this index alone.
CREATE INDEX letters_by_fingerprint ON ops.letters (fingerprint, number) INCLUDE (status, last_failed_at);
-- Full text of the error. Only ASCII punctuation separates words: [[:alnum:]] knows other alphabets in some locales only.
CREATE INDEX letters_by_words ON ops.letters USING gin (
    to_tsvector('simple', regexp_replace(error_class || ' ' || error_text, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g')));
-- Letters whose user is to be asked for, and letters that may be deleted.
CREATE INDEX letters_without_user ON ops.letters (number) WHERE user_id IS NULL AND training_id IS NOT NULL;
CREATE INDEX letters_settled ON ops.letters (status_at) WHERE status IN ('resolved', 'dropped');
-- The oldest open one: a number says in which order they were stored, and one that was resolved may open again.
CREATE INDEX letters_open_by_time ON ops.letters (archived_at) WHERE status = 'open';

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
            -- A reason ends with the status that it explains.
            IF new.status_reason = old.status_reason THEN
                new.status_reason := '';
            END IF;
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

-- Replays: which letters, in which order, how fast, and the outcome of each

CREATE TABLE ops.replays (
    -- First part of the replay mark that its messages carry.
    id              uuid PRIMARY KEY,
    -- Order of creation; pages are sorted by it.
    number          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor           text NOT NULL,
    reason          text NOT NULL CHECK (reason <> ''),
    -- The request, as it came.
    selection       json NOT NULL,
    rate_per_second double precision NOT NULL CHECK (rate_per_second > 0),
    -- The number of letters after which each step ends.
    steps           integer[] NOT NULL CHECK (cardinality(steps) > 0),
    stop_share      double precision NOT NULL CHECK (stop_share BETWEEN 0 AND 1),
    -- The fingerprints of its letters, and the newest letter of all when it was created: letters with these
    -- fingerprints and a higher number arrived since.
    fingerprints    text[] NOT NULL,
    newest_letter   bigint NOT NULL,

    status          text NOT NULL CHECK (
        status IN ('previewing', 'previewed', 'running', 'paused', 'stopped', 'done', 'canceled')),
    -- Why it is paused, stopped or canceled.
    status_reason   text NOT NULL DEFAULT '',
    -- What holds it up now; empty: nothing.
    trouble         text NOT NULL DEFAULT '',
    started_at      timestamptz,
    ended_at        timestamptz,
    -- Earliest time of the next letter, so that the rate holds for all processes together.
    next_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Letters that had ended, and failed, when an operator last resumed it: the stop share does not count them.
    forgiven_ended  integer NOT NULL DEFAULT 0,
    forgiven_failed integer NOT NULL DEFAULT 0,
    undo_status     text CHECK (undo_status IN ('undoing', 'undone')),
    undo_actor      text,
    undo_reason     text,
    -- Its letters by outcome, as counted by the service; null: not counted since they last changed. So a list of replays
    -- does not count all of their letters.
    counts          jsonb,

    CONSTRAINT replays_started CHECK ((started_at IS NULL) = (status IN ('previewing', 'previewed'))
        OR (status = 'canceled')),
    CONSTRAINT replays_ended CHECK ((ended_at IS NULL) = (status NOT IN ('done', 'canceled'))),
    CONSTRAINT replays_undo_is_whole CHECK (num_nulls(undo_status, undo_actor, undo_reason) IN (0, 3))
);

CREATE INDEX replays_at_work ON ops.replays (number)
    WHERE status IN ('previewing', 'running') OR undo_status = 'undoing';
-- At rest, and to be counted.
CREATE INDEX replays_uncounted ON ops.replays (number)
    WHERE counts IS NULL AND status NOT IN ('previewing', 'running') AND undo_status IS DISTINCT FROM 'undoing';

CREATE TABLE ops.replay_letters (
    replay_id        uuid NOT NULL REFERENCES ops.replays,
    -- Order of sending.
    position         integer NOT NULL CHECK (position > 0),
    letter           bigint NOT NULL,
    training_id      text,
    -- Sent instead of the letter's own body.
    edited_body      bytea,
    outcome          text NOT NULL CHECK (outcome IN (
        'planned', 'waiting', 'sent', 'swapped', 'superseded', 'moved', 'nothing', 'delivered', 'failed', 'canceled',
        'skipped')),
    detail           text NOT NULL DEFAULT '',
    -- Until then, the process that publishes this letter is the only one that may; no transaction is open meanwhile.
    claimed_until    timestamptz,
    user_id          text,
    stage            text,
    -- After it: the user's current model, its generation, and the model before.
    generation       bigint,
    model            text,
    previous         text,
    -- Forecast of a dry run.
    predicted        text CHECK (
        predicted IN ('swapped', 'superseded', 'moved', 'nothing', 'delivered', 'failed')),
    predicted_detail text NOT NULL DEFAULT '',
    sent_at          timestamptz,
    ended_at         timestamptz,
    undo             text CHECK (undo IN ('waiting', 'reverted', 'kept')),
    undo_detail      text NOT NULL DEFAULT '',

    PRIMARY KEY (replay_id, position),
    UNIQUE (replay_id, letter),
    CONSTRAINT replay_letters_sent CHECK (outcome <> 'sent' OR sent_at IS NOT NULL),
    CONSTRAINT replay_letters_ended CHECK ((ended_at IS NULL) = (outcome IN ('planned', 'waiting', 'sent'))),
    CONSTRAINT replay_letters_swap_is_whole CHECK (outcome <> 'swapped' OR num_nulls(user_id, generation, model) = 0),
    CONSTRAINT replay_letters_undo_a_swap CHECK (undo IS NULL OR outcome = 'swapped')
);

CREATE UNIQUE INDEX replay_letters_one_at_a_time ON ops.replay_letters (letter) WHERE outcome IN ('waiting', 'sent');
CREATE INDEX replay_letters_by_outcome ON ops.replay_letters (replay_id, outcome, position);
CREATE INDEX replay_letters_claimed ON ops.replay_letters (replay_id) WHERE claimed_until IS NOT NULL;
CREATE INDEX replay_letters_to_undo ON ops.replay_letters (replay_id, user_id) WHERE undo = 'waiting';
CREATE INDEX replay_letters_by_letter ON ops.replay_letters (letter);
-- Outcomes as they come.
CREATE INDEX replay_letters_by_end ON ops.replay_letters (replay_id, ended_at) WHERE ended_at IS NOT NULL;
-- Predictions are counted and listed from this index alone, as outcomes are from replay_letters_by_outcome.
CREATE INDEX replay_letters_by_prediction ON ops.replay_letters (replay_id, predicted, position)
    WHERE predicted IS NOT NULL;

CREATE FUNCTION ops.guard_replay_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'letter % had its effect: %', old.letter, old.outcome USING ERRCODE = '23514';
END $$;

CREATE TRIGGER replay_letters_guard BEFORE UPDATE OF outcome ON ops.replay_letters
    FOR EACH ROW WHEN (
        old.outcome IN ('swapped', 'superseded', 'moved', 'nothing', 'delivered') AND new.outcome <> old.outcome)
    EXECUTE FUNCTION ops.guard_replay_letters();

-- Counting locks the replay's row FOR UPDATE, and takes no replay that a transaction underway came here for; one that comes
-- here meanwhile waits, and finds what was kept.
CREATE FUNCTION ops.forget_replay_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM ops.replays WHERE id IN (SELECT replay_id FROM changed) ORDER BY id FOR KEY SHARE;
    UPDATE ops.replays SET counts = NULL WHERE id IN (SELECT replay_id FROM changed) AND counts IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER replay_letters_forget_counts AFTER UPDATE ON ops.replay_letters REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION ops.forget_replay_counts();

-- Reconciliation: trainings that are overdue, and the result of asking Replicate about them

CREATE TABLE ops.recoveries (
    -- Our id of the training.
    ref         uuid PRIMARY KEY,
    training_id text,
    user_id     text NOT NULL,
    noticed_at  timestamptz NOT NULL,
    looks       integer NOT NULL DEFAULT 0 CHECK (looks >= 0),
    -- Number of last looks in a row in which Replicate did not list it.
    absences    integer NOT NULL DEFAULT 0 CHECK (absences >= 0),
    -- Requests for this training alone; counted before each.
    gets        integer NOT NULL DEFAULT 0 CHECK (gets BETWEEN 0 AND 3),
    asked_at    timestamptz,
    -- Earliest time of the next look.
    look_at     timestamptz,
    -- Why the last look failed; empty: it did not.
    trouble     text NOT NULL DEFAULT '',
    outcome     text CHECK (outcome IN ('recovered', 'given_up', 'never_started')),
    settled_at  timestamptz,

    CONSTRAINT recoveries_settled_means_outcome CHECK ((outcome IS NULL) = (settled_at IS NULL))
);

CREATE INDEX recoveries_by_age ON ops.recoveries (noticed_at);
CREATE INDEX recoveries_by_end ON ops.recoveries (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX recoveries_open ON ops.recoveries (ref) WHERE outcome IS NULL;
CREATE INDEX recoveries_set_aside ON ops.recoveries (ref) WHERE outcome IS NULL AND trouble <> '';

-- The last round: one row.
CREATE TABLE ops.reconciliation (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    last_round_at   timestamptz,
    -- End of the last round that was completed.
    last_success_at timestamptz,
    overdue         integer NOT NULL DEFAULT 0,
    calls_left      integer NOT NULL DEFAULT 0,
    trouble         text NOT NULL DEFAULT ''
);
INSERT INTO ops.reconciliation DEFAULT VALUES;

-- Audit and idempotency

CREATE TABLE ops.audit (
    number  bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Name of the API token; `ops` for actions of the process itself.
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
CREATE INDEX audit_by_time ON ops.audit (at);
-- As letters_by_words.
CREATE INDEX audit_by_words ON ops.audit USING gin (
    to_tsvector('simple', regexp_replace(target || ' ' || reason || ' ' || outcome, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g')));

-- Requests with an Idempotency-Key, and what each made; the answer is always read from that.
CREATE TABLE ops.idempotency_keys (
    key            text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 255),
    request_digest text NOT NULL,
    -- Such as a replay's id.
    made           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One-time codes that sign a person in to the console. Neither the code nor the token can be computed from a row.
CREATE TABLE ops.sign_in_codes (
    -- SHA-256 of the code.
    digest     bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    -- HMAC-SHA256 of the code, with the secret of the token that made it.
    proof      bytea NOT NULL CHECK (octet_length(proof) = 32),
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_in_codes_by_expiry ON ops.sign_in_codes (expires_at);

-- Privileges, the fewest that do: the audit is only added to, and a replay's selection never changes.

GRANT USAGE ON SCHEMA ops TO modelswap_ops;
GRANT SELECT ON ops.migrations TO modelswap_ops;
GRANT SELECT, INSERT, DELETE,
    UPDATE (user_id, error_code, error_class, error_text, traceback, attempts, last_failed_at, fingerprint, status,
            status_reason, returns, replay_id)
    ON ops.letters TO modelswap_ops;
GRANT SELECT, INSERT,
    UPDATE (status, status_reason, trouble, started_at, ended_at, next_at, forgiven_ended, forgiven_failed, undo_status,
            undo_actor, undo_reason, counts)
    ON ops.replays TO modelswap_ops;
GRANT SELECT, INSERT,
    UPDATE (outcome, detail, claimed_until, user_id, stage, generation, model, previous, predicted, predicted_detail,
            sent_at, ended_at, undo, undo_detail)
    ON ops.replay_letters TO modelswap_ops;
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.recoveries TO modelswap_ops;
GRANT SELECT, UPDATE ON ops.reconciliation TO modelswap_ops;
GRANT SELECT, INSERT ON ops.audit TO modelswap_ops;
GRANT SELECT, INSERT, DELETE ON ops.idempotency_keys, ops.sign_in_codes TO modelswap_ops;
