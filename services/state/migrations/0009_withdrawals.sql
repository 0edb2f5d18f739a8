-- An operator may take a user's model away, so that the user has none: a withdrawal.
--
-- What must never be is refused here, whatever the code above does:
--   * a model vanishes only where the newest line of its user's history is a withdrawal       user_models_guard
--   * a withdrawal leaves no older model behind, and its generation was drawn                 model_history_withdrawal
--   * after it, no model comes back whose generation is not greater                           user_models_begin

-- The line of a withdrawal has no model; its `ref` and `previous_model` are those of the model that was taken away.
ALTER TABLE state.model_history ALTER COLUMN model DROP NOT NULL;
ALTER TABLE state.model_history DROP CONSTRAINT model_history_cause_check;
ALTER TABLE state.model_history ADD CONSTRAINT model_history_cause_check
    CHECK (cause IN ('training', 'rollback', 'replay', 'withdrawal'));
ALTER TABLE state.model_history ADD CONSTRAINT model_history_only_withdrawals_lack_a_model
    CHECK ((cause = 'withdrawal') = (model IS NULL) AND (model IS NOT NULL OR previous_model IS NOT NULL));

CREATE OR REPLACE FUNCTION state.guard_user_models() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- The fence holds also where there is no row to compare with. A swap that updates a row comes here, too, with the line
-- of the history that it writes itself.
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

GRANT DELETE ON state.user_models TO modelswap_state;
