-- Replays: which letters, in which order, how fast, and what became of each.
--
-- What must never be is refused here, whatever the code above does:
--   * a letter is in one replay at a time                          replay_letters_one_at_a_time
--   * a selection does not change once it is made                  no right to anything else
--   * what had its effect is never said to have failed             replay_letters_guard
--   * a swap that nobody could take back                           replay_letters_swap_is_whole

CREATE TABLE ops.replays (
    -- The first part of the mark that its letters carry.
    id              uuid PRIMARY KEY,
    -- The order in which they were made, for pages.
    number          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor           text NOT NULL,
    reason          text NOT NULL CHECK (reason <> ''),
    -- What was asked for, as it was asked.
    selection       json NOT NULL,
    rate_per_second double precision NOT NULL CHECK (rate_per_second > 0),
    -- After how many letters each step ends.
    steps           integer[] NOT NULL CHECK (cardinality(steps) > 0),
    stop_share      double precision NOT NULL CHECK (stop_share BETWEEN 0 AND 1),
    -- Its letters' most likely causes, and the newest letter there was: others with that cause came after it.
    fingerprints    text[] NOT NULL,
    newest_letter   bigint NOT NULL,
    status          text NOT NULL CHECK (
        status IN ('previewing', 'previewed', 'running', 'paused', 'stopped', 'done', 'canceled')),
    -- Why it is paused, stopped or canceled.
    status_reason   text NOT NULL DEFAULT '',
    started_at      timestamptz,
    ended_at        timestamptz,
    -- When the next letter may go, so that the rate holds for all processes together.
    next_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- How many had ended, and failed, when somebody last said to go on in spite of it.
    forgiven_ended  integer NOT NULL DEFAULT 0,
    forgiven_failed integer NOT NULL DEFAULT 0,
    undo_status     text CHECK (undo_status IN ('undoing', 'undone')),
    undo_actor      text,
    undo_reason     text,
    CONSTRAINT replays_started CHECK ((started_at IS NULL) = (status IN ('previewing', 'previewed'))
        OR (status = 'canceled')),
    CONSTRAINT replays_ended CHECK ((ended_at IS NULL) = (status NOT IN ('done', 'canceled'))),
    CONSTRAINT replays_undo_is_whole CHECK (num_nulls(undo_status, undo_actor, undo_reason) IN (0, 3))
);

CREATE INDEX replays_at_work ON ops.replays (number)
    WHERE status IN ('previewing', 'running') OR undo_status = 'undoing';

CREATE TABLE ops.replay_letters (
    replay_id        uuid NOT NULL REFERENCES ops.replays,
    -- The order in which they go.
    position         integer NOT NULL CHECK (position > 0),
    letter           bigint NOT NULL,
    training_id      text,
    -- What goes instead of the letter's own body.
    edited_body      bytea,
    outcome          text NOT NULL CHECK (outcome IN (
        'planned', 'waiting', 'sent', 'swapped', 'superseded', 'moved', 'nothing', 'failed', 'canceled', 'skipped')),
    detail           text NOT NULL DEFAULT '',
    user_id          text,
    stage            text,
    -- The user's current model after it, the generation of that, and the model before.
    generation       bigint,
    model            text,
    previous         text,
    -- What a dry run says would happen.
    predicted        text CHECK (predicted IN ('swapped', 'superseded', 'moved', 'nothing', 'failed')),
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
CREATE INDEX replay_letters_to_undo ON ops.replay_letters (replay_id, position) WHERE undo = 'waiting';

CREATE FUNCTION ops.guard_replay_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'letter % had its effect: %', old.letter, old.outcome USING ERRCODE = '23514';
END $$;

CREATE TRIGGER replay_letters_guard BEFORE UPDATE OF outcome ON ops.replay_letters
    FOR EACH ROW WHEN (old.outcome IN ('swapped', 'superseded', 'moved', 'nothing') AND new.outcome <> old.outcome)
    EXECUTE FUNCTION ops.guard_replay_letters();

GRANT SELECT, INSERT,
    UPDATE (status, status_reason, started_at, ended_at, next_at, forgiven_ended, forgiven_failed, undo_status,
            undo_actor, undo_reason)
    ON ops.replays TO modelswap_ops;
GRANT SELECT, INSERT,
    UPDATE (outcome, detail, user_id, stage, generation, model, previous, predicted, predicted_detail, sent_at,
            ended_at, undo, undo_detail)
    ON ops.replay_letters TO modelswap_ops;
