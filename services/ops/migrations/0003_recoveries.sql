-- Trainings whose end should have been heard of: what was done to find out.

CREATE TABLE ops.recoveries (
    -- Our id of the training.
    ref         uuid PRIMARY KEY,
    training_id text,
    user_id     text NOT NULL,
    noticed_at  timestamptz NOT NULL,
    looks       integer NOT NULL DEFAULT 0 CHECK (looks >= 0),
    -- How many of the last ones in a row saw that Replicate does not list it.
    absences    integer NOT NULL DEFAULT 0 CHECK (absences >= 0),
    -- How often it was asked for alone; counted before it is.
    gets        integer NOT NULL DEFAULT 0 CHECK (gets BETWEEN 0 AND 3),
    asked_at    timestamptz,
    -- Not before this.
    look_at     timestamptz,
    outcome     text CHECK (outcome IN ('recovered', 'given_up', 'never_started')),
    settled_at  timestamptz,
    CONSTRAINT recoveries_settled_means_outcome CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
CREATE INDEX recoveries_by_age ON ops.recoveries (noticed_at);
CREATE INDEX recoveries_by_end ON ops.recoveries (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX recoveries_open ON ops.recoveries (ref) WHERE outcome IS NULL;

-- How the last round went: one row.
CREATE TABLE ops.reconciliation (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    last_round_at   timestamptz,
    -- Of the last one that came to its end.
    last_success_at timestamptz,
    overdue         integer NOT NULL DEFAULT 0,
    calls_left      integer NOT NULL DEFAULT 0,
    trouble         text NOT NULL DEFAULT ''
);
INSERT INTO ops.reconciliation DEFAULT VALUES;

GRANT SELECT, INSERT, UPDATE, DELETE ON ops.recoveries TO modelswap_ops;
GRANT SELECT, UPDATE ON ops.reconciliation TO modelswap_ops;
