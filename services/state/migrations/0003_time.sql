-- What is known of time: how long trainings take, and how far each was shown to be.

-- By trainer (owner/name, of any version): how long the last of its successful trainings took.
CREATE TABLE state.trainer_durations (
    trainer        text PRIMARY KEY,
    trainings      integer NOT NULL CHECK (trainings > 0),
    -- The 10th, 50th and 90th percentile.
    low_seconds    double precision NOT NULL CHECK (low_seconds > 0),
    median_seconds double precision NOT NULL CHECK (median_seconds >= low_seconds),
    high_seconds   double precision NOT NULL CHECK (high_seconds >= median_seconds),
    learned_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The last ones of a trainer, by our own number: Replicate's dates may be wrong. The stage is indexed anyway, so this
-- makes no update of a training dearer in kind.
CREATE INDEX trainings_succeeded ON state.trainings (split_part(trainer, ':', 1), number)
    WHERE stage IN ('verifying', 'active', 'replaced', 'superseded', 'unverified') AND trainer IS NOT NULL;

-- The furthest guess that anybody was shown of a training, so that none is shown less. Apart from the trainings, and
-- without a reference to them, because whoever only asks must neither lock nor wait for what a swap writes.
CREATE TABLE state.shown_progress (
    ref     uuid PRIMARY KEY,
    percent smallint NOT NULL CHECK (percent BETWEEN 1 AND 99)
) WITH (fillfactor = 80);

GRANT SELECT, INSERT,
    UPDATE (trainings, low_seconds, median_seconds, high_seconds, learned_at) ON state.trainer_durations TO modelswap_state;
GRANT SELECT, INSERT, UPDATE (percent) ON state.shown_progress TO modelswap_state;
