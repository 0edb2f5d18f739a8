-- The relay publishes a row as it is, without knowing its event. Null in rows of an earlier version: then the relay
-- derives both from the routing key and the body.
ALTER TABLE state.outbox ADD COLUMN exchange text, ADD COLUMN training_id text;

-- What the estimate of a training's progress is computed from, so that reading it writes nothing: how long its trainer's
-- trainings took when it started (10th, 50th and 90th percentile), and when a log or its end replaced the estimate.
ALTER TABLE state.trainings
    ADD COLUMN expected_seconds double precision[] CHECK (array_length(expected_seconds, 1) = 3),
    ADD COLUMN estimated_until timestamptz;
GRANT UPDATE (expected_seconds, estimated_until) ON state.trainings TO modelswap_state;

UPDATE state.trainings t SET expected_seconds = ARRAY[d.low_seconds, d.median_seconds, d.high_seconds]
FROM state.trainer_durations d
WHERE t.stage = 'running' AND d.trainer = split_part(t.trainer, ':', 1);
