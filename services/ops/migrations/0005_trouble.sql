-- What holds up a replay now, for whoever waits for it; empty: nothing does.

ALTER TABLE ops.replays ADD COLUMN trouble text NOT NULL DEFAULT '';
GRANT UPDATE (trouble) ON ops.replays TO modelswap_ops;
