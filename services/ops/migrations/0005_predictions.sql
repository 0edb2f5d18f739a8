-- no-transaction
-- A replay's predictions are counted, and listed, from an index alone, as its outcomes are.
CREATE INDEX CONCURRENTLY IF NOT EXISTS replay_letters_by_prediction
    ON ops.replay_letters (replay_id, predicted, position)
    WHERE predicted IS NOT NULL;
