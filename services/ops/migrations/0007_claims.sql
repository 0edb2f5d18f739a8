-- Letters that a process is publishing now, and until when no other process does: no transaction is open meanwhile.

ALTER TABLE ops.replay_letters ADD COLUMN claimed_until timestamptz;
CREATE INDEX replay_letters_claimed ON ops.replay_letters (replay_id) WHERE claimed_until IS NOT NULL;
GRANT UPDATE (claimed_until) ON ops.replay_letters TO modelswap_ops;
