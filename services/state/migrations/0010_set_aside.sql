-- An event that can never be published as it is must not hold up the others: it is set aside, with the reason, until
-- somebody has repaired it.
ALTER TABLE state.outbox
    ADD COLUMN set_aside_at     timestamptz,
    ADD COLUMN set_aside_reason text,
    ADD CONSTRAINT set_aside_with_a_reason CHECK ((set_aside_at IS NULL) = (set_aside_reason IS NULL)) NOT VALID;
CREATE INDEX outbox_set_aside ON state.outbox (id) WHERE set_aside_at IS NOT NULL;
GRANT UPDATE (set_aside_at, set_aside_reason) ON state.outbox TO modelswap_state;
