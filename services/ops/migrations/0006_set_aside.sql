-- Why the last look at an overdue training failed, for operators; empty: it did not.

ALTER TABLE ops.recoveries ADD COLUMN trouble text NOT NULL DEFAULT '';
CREATE INDEX recoveries_set_aside ON ops.recoveries (ref) WHERE outcome IS NULL AND trouble <> '';
