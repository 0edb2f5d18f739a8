-- no-transaction
-- Do trainings of several users lie at a destination? Asked where only Replicate's list says which version was made.
CREATE INDEX CONCURRENTLY trainings_by_destination ON state.trainings (destination, user_id);
