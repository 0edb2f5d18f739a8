-- The counts of a replay that is at rest are kept, so that a list of replays does not count all of their dead letters.

-- As counted by the service; null: not counted since its dead letters last changed.
ALTER TABLE ops.replays ADD COLUMN counts jsonb;
GRANT UPDATE (counts) ON ops.replays TO modelswap_ops;

-- A trigger, so that a change by the version before is noticed as well. Counting locks the replay's row FOR UPDATE, and
-- takes no replay that a transaction underway came here for; one that comes here meanwhile waits, and finds what was kept.
CREATE FUNCTION ops.forget_replay_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM ops.replays WHERE id IN (SELECT replay_id FROM changed) ORDER BY id FOR KEY SHARE;
    UPDATE ops.replays SET counts = NULL WHERE id IN (SELECT replay_id FROM changed) AND counts IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER replay_letters_forget_counts AFTER UPDATE ON ops.replay_letters REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION ops.forget_replay_counts();
