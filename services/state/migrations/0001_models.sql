-- Users, their trainings, and the one model that each of them uses now.
--
-- What must never be is refused here, whatever the code above does:
--   * a training's model lies at that training's destination           trainings_model_is_at_destination
--   * a line of the history is the model of one of that user's own trainings      model_history_is_of_a_training
--   * the current model is a line of the history, whole, and of that user         user_models_is_…
--   * its generation only rises, and it never vanishes                 user_models_guard

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'modelswap_state') THEN
        CREATE ROLE modelswap_state NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole cluster: another of its databases was faster.
    NULL;
END $$;

-- Whoever owns the schema may act as the role, too, unless somebody else decides on memberships here.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'modelswap_state', 'USAGE') THEN
        EXECUTE format('GRANT modelswap_state TO %I', current_user);
    END IF;
EXCEPTION WHEN unique_violation OR insufficient_privilege THEN
    NULL;
END $$;

-- The shapes; `shared.contract.identity` has the whole grammar. No groups or counts: they make a check fifteen times
-- slower.
CREATE DOMAIN state.model_name AS text
    CHECK (value ~ '^[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*$');
CREATE DOMAIN state.model_ref AS text
    CHECK (value ~ '^[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9._-]*:[0-9a-f]+$'
           AND char_length(split_part(value, ':', 2)) = 64);

CREATE TABLE state.users (
    user_id         text PRIMARY KEY CHECK (char_length(user_id) BETWEEN 1 AND 200),
    -- Drawn by the next training of this user. The row's lock is the only one that writers of models take.
    next_generation bigint NOT NULL CHECK (next_generation > 1),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- A tombstone: late events of a deleted user change nothing.
    deleted_at      timestamptz
);

CREATE TABLE state.trainings (
    ref             uuid PRIMARY KEY,
    -- The order of registration, for pages.
    number          bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Replicate's id; null until it is known.
    training_id     text UNIQUE,
    user_id         text NOT NULL REFERENCES state.users,
    generation      bigint NOT NULL CHECK (generation > 0),
    destination     state.model_name NOT NULL,
    trainer         text,
    trainer_version text,
    trigger_word    text NOT NULL,
    total_steps     integer CHECK (total_steps > 0),
    stage           text NOT NULL DEFAULT 'requested' CHECK (stage IN (
                        'requested', 'running', 'verifying', 'active', 'replaced', 'superseded',
                        'failed', 'canceled', 'unverified')),
    step            integer CHECK (step >= 0),
    -- Percent, as far as a log has said. Only a swap says 100.
    progress        smallint CHECK (progress BETWEEN 0 AND 99),
    progress_source text CHECK (progress_source IN ('log', 'estimate')),
    progress_at     timestamptz,
    -- JSON, exactly as Replicate sent it; kept because Replicate may delete it.
    output          text,
    model           state.model_ref,
    failure_code    text,
    failure_reason  text,
    requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at      timestamptz,
    completed_at    timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),

    UNIQUE (user_id, generation),
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
        CHECK ((progress IS NULL) = (progress_source IS NULL) AND (progress IS NULL) = (progress_at IS NULL))
) WITH (fillfactor = 80);

CREATE INDEX trainings_by_stage ON state.trainings (stage, number);

CREATE TABLE state.model_history (
    user_id        text NOT NULL,
    generation     bigint NOT NULL CHECK (generation > 0),
    ref            uuid NOT NULL,
    model          state.model_ref NOT NULL,
    trigger_word   text NOT NULL,
    cause          text NOT NULL CHECK (cause IN ('training', 'rollback', 'replay')),
    -- Null for a user's first model.
    previous_model state.model_ref,
    actor          text NOT NULL,
    reason         text NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (user_id, generation),
    CONSTRAINT model_history_is_of_a_training
        FOREIGN KEY (ref, user_id, model) REFERENCES state.trainings (ref, user_id, model)
);

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
        IF EXISTS (SELECT FROM state.users WHERE user_id = old.user_id AND deleted_at IS NULL) THEN
            RAISE EXCEPTION 'the model of user % can not be taken away', old.user_id USING ERRCODE = '23514';
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

CREATE FUNCTION state.guard_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the next generation of user % can not go back from % to %',
        old.user_id, old.next_generation, new.next_generation USING ERRCODE = '23514';
END $$;

CREATE TRIGGER users_guard BEFORE UPDATE ON state.users
    FOR EACH ROW WHEN (new.next_generation < old.next_generation) EXECUTE FUNCTION state.guard_users();

-- Least privilege: nothing that makes a model is ever deleted, the history is only added to, and whose a training is
-- never changes.
GRANT USAGE ON SCHEMA state TO modelswap_state;
GRANT SELECT ON state.migrations TO modelswap_state;
GRANT SELECT, INSERT, UPDATE (next_generation) ON state.users TO modelswap_state;
GRANT SELECT, INSERT,
    UPDATE (training_id, trainer, trainer_version, total_steps, stage, step, progress, progress_source, progress_at,
            output, model, failure_code, failure_reason, started_at, completed_at, updated_at)
    ON state.trainings TO modelswap_state;
GRANT SELECT, INSERT, UPDATE ON state.user_models TO modelswap_state;
GRANT SELECT, INSERT ON state.model_history TO modelswap_state;
