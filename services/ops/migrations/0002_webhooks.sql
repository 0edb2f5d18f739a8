-- A replayed dead letter of the notifier may be delivered.

ALTER TABLE ops.replay_letters
    DROP CONSTRAINT replay_letters_outcome_check,
    ADD CONSTRAINT replay_letters_outcome_check CHECK (outcome IN (
        'planned', 'waiting', 'sent', 'swapped', 'superseded', 'moved', 'nothing', 'delivered', 'failed', 'canceled',
        'skipped')),
    DROP CONSTRAINT replay_letters_predicted_check,
    ADD CONSTRAINT replay_letters_predicted_check CHECK (
        predicted IN ('swapped', 'superseded', 'moved', 'nothing', 'delivered', 'failed'));

DROP TRIGGER replay_letters_guard ON ops.replay_letters;
CREATE TRIGGER replay_letters_guard BEFORE UPDATE OF outcome ON ops.replay_letters
    FOR EACH ROW WHEN (
        old.outcome IN ('swapped', 'superseded', 'moved', 'nothing', 'delivered') AND new.outcome <> old.outcome)
    EXECUTE FUNCTION ops.guard_replay_letters();
