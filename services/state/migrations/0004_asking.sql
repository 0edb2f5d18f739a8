-- What a request with an Idempotency-Key made may also be a swap: which one of the user's, so that it is answered with
-- the same again. Null where it registered a training, or asked for one to be looked at again.
ALTER TABLE state.idempotency_keys ADD COLUMN generation bigint;
