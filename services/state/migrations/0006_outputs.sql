-- no-transaction
CREATE INDEX CONCURRENTLY trainings_by_request ON state.trainings (requested_at);
