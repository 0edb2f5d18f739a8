-- Users, their trainings, the model that each user has now, and the messages of this service.
--
-- The database refuses what must never happen, whatever the code does:
--   * a model that is not at its training's destination             trainings_model_is_at_destination
--   * two active trainings of one user                              trainings_one_active
--   * a line of history without a training of that user             model_history_is_of_a_training
--   * a current model that is not in that user's history            user_models_is_in_history, user_models_is_of_a_training
--   * a current model whose generation does not rise                user_models_guard
--   * a current model that vanishes without a withdrawal            user_models_guard, model_history_withdrawal
--   * an older model that comes back after a withdrawal             user_models_begin

-- Role: what the service acts as. Its privileges are at the end of this file.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modelswap_state') THEN
        CREATE ROLE modelswap_state NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole server: a migration of another database created it first.
    NULL;
END $$;

-- The owner of the schema may act as the role as well, unless memberships are managed elsewhere.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'modelswap_state', 'USAGE') THEN
        EXECUTE format('GRANT modelswap_state TO %I', current_user);
    END IF;
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN
    NULL;
END $$;

-- Domains. `shared.contract.identity` has the whole grammar; groups and counts would make a check fifteen times slower.

CREATE DOMAIN state.model_name AS text
    CHECK (value ~ '^[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*$');
CREATE DOMAIN state.model_ref AS text
    CHECK (value ~ '^[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*:[0-9a-f]+$'
           AND char_length(split_part(value, ':', 2)) = 64);

-- Users and trainings

CREATE TABLE state.users (
    user_id         text PRIMARY KEY CHECK (char_length(user_id) BETWEEN 1 AND 200),
    -- The generation that this user's next training, rollback or withdrawal gets. Writers of models lock this row and
    -- no other.
    next_generation bigint NOT NULL CHECK (next_generation > 1),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Tombstone: late events of a deleted user change nothing.
    deleted_at      timestamptz
);

CREATE TABLE state.trainings (
    -- Our id, made before Replicate knows the training.
    ref              uuid PRIMARY KEY,
    -- Order of registration; pages are sorted by it.
    number           bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Replicate's id; null until it is known.
    training_id      text UNIQUE,
    user_id          text NOT NULL REFERENCES state.users,
    generation       bigint NOT NULL CHECK (generation > 0),
    destination      state.model_name NOT NULL,
    trainer          text,
    trainer_version  text,
    trigger_word     text NOT NULL,
    total_steps      integer CHECK (total_steps > 0),
    stage            text NOT NULL DEFAULT 'requested' CHECK (stage IN (
                         'requested', 'running', 'verifying', 'active', 'replaced', 'superseded',
                         'failed', 'canceled', 'unverified')),
    -- Progress, as read from the logs.
    step             integer CHECK (step >= 0),
    -- Percent; 100 is shown only after a swap and is not stored.
    progress         smallint CHECK (progress BETWEEN 0 AND 99),
    progress_source  text CHECK (progress_source IN ('log', 'estimate')),
    progress_at      timestamptz,
    -- Progress, as estimated: how long the trainer's trainings took when this one started (10th, 50th and 90th
    -- percentile, in seconds), and when a log line or the end replaced the estimate.
    expected_seconds double precision[] CHECK (array_length(expected_seconds, 1) = 3),
    estimated_until  timestamptz,
    -- Result. The output is JSON text exactly as Replicate sent it, kept because Replicate may delete its own.
    output           text,
    model            state.model_ref,
    failure_code     text,
    failure_reason   text,
    requested_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at       timestamptz,
    completed_at     timestamptz,
    -- When its end was reported, by a webhook or by a poll.
    reported_at      timestamptz,
    -- True: Replicate had to be asked for the end. False: a webhook came first. Null: it has not ended, or there was no
    -- webhook to miss (it was registered after its end, or Replicate knows of no end).
    webhook_missed   boolean,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),

    UNIQUE (user_id, generation),
    -- Target of the foreign keys of model_history and user_models.
    UNIQUE (ref, user_id, model),
    -- Checked at commit, because a swap changes two rows.
    CONSTRAINT trainings_one_active EXCLUDE USING btree (user_id WITH =) WHERE (stage = 'active')
        DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT trainings_model_is_at_destination CHECK (starts_with(model, destination || ':')),
    CONSTRAINT trainings_proved_means_model
        CHECK ((stage IN ('active', 'replaced', 'superseded')) = (model IS NOT NULL)
               AND (model IS NULL OR training_id IS NOT NULL)),
    CONSTRAINT trainings_failed_means_reason
        CHECK ((stage IN ('failed', 'canceled', 'unverified')) = (failure_code IS NOT NULL)
               AND (failure_code IS NULL) = (failure_reason IS NULL)),
    CONSTRAINT trainings_progress_has_source
        CHECK ((progress IS NULL) = (progress_source IS NULL) AND (progress IS NULL) = (progress_at IS NULL)),
    -- The API tells Replicate's ids from our refs by their form, so no training id may have the form of a ref: 32
    -- hexadecimal digits, with or without hyphens. The length comes first, because it is cheap.
    CONSTRAINT trainings_training_id_is_no_ref
        CHECK (char_length(replace(training_id, '-', '')) <> 32 OR replace(training_id, '-', '') !~* '^[0-9a-f]+$')
) WITH (fillfactor = 80);

CREATE INDEX trainings_by_stage ON state.trainings (stage, number);
CREATE INDEX trainings_by_request ON state.trainings (requested_at);
-- Which trainings made a model, and which users have trainings at a destination: needed when a version comes from
-- Replicate's list instead of the training's own output.
CREATE INDEX trainings_by_model ON state.trainings (model) WHERE model IS NOT NULL;
CREATE INDEX trainings_by_destination ON state.trainings (destination, user_id);
-- The latest successful trainings of a trainer, by our own number: Replicate's dates may be wrong. The stage is indexed
-- already, so this index does not stop more updates from being HOT.
CREATE INDEX trainings_succeeded ON state.trainings (split_part(trainer, ':', 1), number)
    WHERE stage IN ('verifying', 'active', 'replaced', 'superseded', 'unverified') AND trainer IS NOT NULL;
-- Ends of trainings by the time of their report: their statistics are read from this index alone.
CREATE INDEX trainings_by_report ON state.trainings (reported_at) INCLUDE (webhook_missed)
    WHERE webhook_missed IS NOT NULL;

-- How long the latest successful trainings of a trainer (owner/name, any version) took.
CREATE TABLE state.trainer_durations (
    trainer        text PRIMARY KEY,
    trainings      integer NOT NULL CHECK (trainings > 0),
    -- The 10th, 50th and 90th percentile.
    low_seconds    double precision NOT NULL CHECK (low_seconds > 0),
    median_seconds double precision NOT NULL CHECK (median_seconds >= low_seconds),
    high_seconds   double precision NOT NULL CHECK (high_seconds >= median_seconds),
    learned_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Models

-- One line per swap or withdrawal; never changed.
CREATE TABLE state.model_history (
    user_id        text NOT NULL,
    generation     bigint NOT NULL CHECK (generation > 0),
    -- The training that made the model. In a withdrawal, which has no model, `ref` and `previous_model` are those of the
    -- model that was taken away.
    ref            uuid NOT NULL,
    model          state.model_ref,
    trigger_word   text NOT NULL,
    cause          text NOT NULL CHECK (cause IN ('training', 'rollback', 'replay', 'withdrawal')),
    -- Null for a user's first model.
    previous_model state.model_ref,
    actor          text NOT NULL,
    reason         text NOT NULL,
    -- That of the training whose end was swapped in.
    reported_at    timestamptz,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (user_id, generation),
    CONSTRAINT model_history_is_of_a_training
        FOREIGN KEY (ref, user_id, model) REFERENCES state.trainings (ref, user_id, model),
    CONSTRAINT model_history_only_withdrawals_lack_a_model
        CHECK ((cause = 'withdrawal') = (model IS NULL) AND (model IS NOT NULL OR previous_model IS NOT NULL))
);

-- Statistics of swaps are read from this index alone.
CREATE INDEX model_history_by_time ON state.model_history (at) INCLUDE (cause, reported_at);
-- Withdrawals are few; with user_models_by_time, for what has changed since a time.
CREATE INDEX model_history_withdrawals_by_time ON state.model_history (at, user_id) WHERE cause = 'withdrawal';
CREATE INDEX model_history_withdrawals_by_user ON state.model_history (user_id, generation) WHERE cause = 'withdrawal';

-- The model that each user has now. No row: the user has none.
CREATE TABLE state.user_models (
    user_id      text PRIMARY KEY,
    generation   bigint NOT NULL,
    ref          uuid NOT NULL,
    model        state.model_ref NOT NULL,
    trigger_word text NOT NULL,
    activated_at timestamptz NOT NULL,

    CONSTRAINT user_models_is_in_history
        FOREIGN KEY (user_id, generation) REFERENCES state.model_history (user_id, generation),
    CONSTRAINT user_models_is_of_a_training
        FOREIGN KEY (ref, user_id, model) REFERENCES state.trainings (ref, user_id, model)
);

-- For pages of all users' models (services/state/store/snapshot.py), and of what has changed since a time.
CREATE INDEX user_models_by_time ON state.user_models (activated_at, user_id);

-- Search: users by the beginning of their id, models by any part of their name that begins a word

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

-- Guards

CREATE FUNCTION state.guard_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the next generation of user % can not go back from % to %',
        old.user_id, old.next_generation, new.next_generation USING ERRCODE = '23514';
END $$;

CREATE TRIGGER users_guard BEFORE UPDATE ON state.users
    FOR EACH ROW WHEN (new.next_generation < old.next_generation) EXECUTE FUNCTION state.guard_users();

CREATE FUNCTION state.guard_user_models() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE TG_OP
    WHEN 'UPDATE' THEN
        IF new.user_id IS DISTINCT FROM old.user_id THEN
            RAISE EXCEPTION 'the model of user % can not become another user''s', old.user_id USING ERRCODE = '23514';
        ELSIF new.generation <= old.generation THEN
            RAISE EXCEPTION 'the model of user % can not go back from generation % to %',
                old.user_id, old.generation, new.generation USING ERRCODE = '23514';
        END IF;
        RETURN new;
    WHEN 'DELETE' THEN
        IF EXISTS (SELECT FROM state.users WHERE user_id = old.user_id AND deleted_at IS NULL)
           AND (SELECT cause FROM state.model_history
                WHERE user_id = old.user_id AND generation > old.generation
                ORDER BY generation DESC LIMIT 1) IS DISTINCT FROM 'withdrawal'
        THEN
            RAISE EXCEPTION 'the model of user % can not be taken away without a withdrawal in the history', old.user_id
                USING ERRCODE = '23514';
        END IF;
        RETURN old;
    ELSE
        RAISE EXCEPTION 'the models of all users can not be taken away' USING ERRCODE = '23514';
    END CASE;
END $$;

CREATE TRIGGER user_models_guard BEFORE UPDATE OR DELETE ON state.user_models
    FOR EACH ROW EXECUTE FUNCTION state.guard_user_models();
CREATE TRIGGER user_models_guard_all BEFORE TRUNCATE ON state.user_models
    FOR EACH STATEMENT EXECUTE FUNCTION state.guard_user_models();

-- The generation must rise even where a withdrawal left no row to compare with. INSERT … ON CONFLICT DO UPDATE fires
-- this trigger too, when it has already written its own line of history.
CREATE FUNCTION state.guard_first_models() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM state.model_history
               WHERE user_id = new.user_id AND generation >= new.generation AND cause = 'withdrawal')
    THEN
        RAISE EXCEPTION 'the model of user % was withdrawn after generation %', new.user_id, new.generation
            USING ERRCODE = '23514';
    END IF;
    RETURN new;
END $$;

CREATE TRIGGER user_models_begin BEFORE INSERT ON state.user_models
    FOR EACH ROW EXECUTE FUNCTION state.guard_first_models();

-- A withdrawal has a drawn generation, takes away the user's current model, and leaves none.
CREATE FUNCTION state.guard_withdrawals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM state.user_models WHERE user_id = new.user_id AND generation <= new.generation) THEN
        RAISE EXCEPTION 'user % has a model in spite of the withdrawal of generation %', new.user_id, new.generation
            USING ERRCODE = '23514';
    ELSIF NOT EXISTS (SELECT FROM state.users WHERE user_id = new.user_id AND next_generation > new.generation) THEN
        RAISE EXCEPTION 'generation % of user % was never drawn', new.generation, new.user_id USING ERRCODE = '23514';
    ELSIF (SELECT (h.ref, h.model) IS DISTINCT FROM (new.ref, new.previous_model) FROM state.model_history h
           WHERE h.user_id = new.user_id AND h.generation < new.generation
           ORDER BY h.generation DESC LIMIT 1) IS DISTINCT FROM false
    THEN
        RAISE EXCEPTION 'user % did not use the model that generation % takes away', new.user_id, new.generation
            USING ERRCODE = '23514';
    END IF;
    RETURN NULL;
END $$;

-- Checked at commit, because a withdrawal changes two tables.
CREATE CONSTRAINT TRIGGER model_history_withdrawal AFTER INSERT ON state.model_history
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.cause = 'withdrawal')
    EXECUTE FUNCTION state.guard_withdrawals();

-- Messages

-- Applied events: a shortcut for duplicates, and what each said and did. Safety does not depend on it, so old rows may be
-- deleted.
CREATE TABLE state.inbox (
    event_id    text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ref         uuid,
    -- Its routing key.
    event       text,
    -- When it was made: of a webhook, when the receiver took it.
    occurred_at timestamptz,
    -- The stage it moved its training to; null if it moved none.
    stage       text,
    detail      json
);
CREATE INDEX inbox_by_training ON state.inbox (ref) WHERE ref IS NOT NULL;
-- The oldest, to delete them. Not BRIN: its summaries never shrink, so once the place of deleted rows is used again it finds
-- every block.
CREATE INDEX inbox_by_time ON state.inbox (received_at);

-- Events exactly as they will be published, written in the transaction whose effect they report. The relay publishes a
-- row without decoding its event.
CREATE TABLE state.outbox (
    -- Drawn under the user's lock, so that events of one user are published in the order of their commits.
    id               bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    event_id         text NOT NULL UNIQUE,
    user_id          text NOT NULL,
    generation       bigint NOT NULL,
    training_id      text NOT NULL,
    exchange         text NOT NULL,
    routing_key      text NOT NULL,
    headers          json NOT NULL,
    body             json NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at     timestamptz,
    -- An event that can never be published as it is must not hold up the others: it waits here for a repair.
    set_aside_at     timestamptz,
    set_aside_reason text,

    CONSTRAINT set_aside_with_a_reason CHECK ((set_aside_at IS NULL) = (set_aside_reason IS NULL))
);
CREATE INDEX outbox_unpublished ON state.outbox (id) WHERE published_at IS NULL;
CREATE INDEX outbox_set_aside ON state.outbox (id) WHERE set_aside_at IS NOT NULL;
-- The ids of other events in the outbox follow from the history, so they are found without an index of their own.
CREATE INDEX outbox_requests ON state.outbox (training_id) WHERE routing_key = 'extraction.requested.v1';

-- Requests with an Idempotency-Key, and the training each was about; the answer is always read from the training.
CREATE TABLE state.idempotency_keys (
    key            text PRIMARY KEY CHECK (char_length(key) BETWEEN 1 AND 255),
    request_digest text NOT NULL,
    ref            uuid NOT NULL REFERENCES state.trainings DEFERRABLE INITIALLY DEFERRED,
    -- The line of history that a rollback or withdrawal made; null for other requests.
    generation     bigint,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX idempotency_keys_by_age ON state.idempotency_keys USING brin (created_at);

-- Privileges, the fewest that do: history is only added to, and the user of a training never changes.

GRANT USAGE ON SCHEMA state TO modelswap_state;
GRANT SELECT ON state.migrations TO modelswap_state;
GRANT SELECT, INSERT, UPDATE (next_generation) ON state.users TO modelswap_state;
GRANT SELECT, INSERT,
    UPDATE (training_id, trainer, trainer_version, total_steps, stage, step, progress, progress_source, progress_at,
            expected_seconds, estimated_until, output, model, failure_code, failure_reason, started_at, completed_at,
            reported_at, webhook_missed, updated_at)
    ON state.trainings TO modelswap_state;
GRANT SELECT, INSERT,
    UPDATE (trainings, low_seconds, median_seconds, high_seconds, learned_at)
    ON state.trainer_durations TO modelswap_state;
GRANT SELECT, INSERT ON state.model_history, state.model_parts TO modelswap_state;
GRANT SELECT, INSERT, UPDATE, DELETE ON state.user_models TO modelswap_state;
GRANT SELECT, INSERT, DELETE ON state.inbox, state.idempotency_keys TO modelswap_state;
GRANT SELECT, INSERT, UPDATE (published_at, set_aside_at, set_aside_reason), DELETE ON state.outbox TO modelswap_state;
