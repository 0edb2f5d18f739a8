-- What the console asks: the audit by time and by words, the replays of one dead letter, and outcomes as they come.

CREATE INDEX audit_by_time ON ops.audit (at);
-- As letters_by_words.
CREATE INDEX audit_by_words ON ops.audit USING gin (
    to_tsvector('simple', regexp_replace(target || ' ' || reason || ' ' || outcome, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g')));

CREATE INDEX replay_letters_by_letter ON ops.replay_letters (letter);
CREATE INDEX replay_letters_by_end ON ops.replay_letters (replay_id, ended_at) WHERE ended_at IS NOT NULL;
