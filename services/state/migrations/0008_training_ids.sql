-- Replicate's ids and our refs are told apart by their looks, so no training id may look like a ref: 32 hexadecimal
-- digits, with hyphens or without. The length is looked at first, because it is cheap.
ALTER TABLE state.trainings ADD CONSTRAINT trainings_training_id_is_no_ref
    CHECK (char_length(replace(training_id, '-', '')) <> 32 OR replace(training_id, '-', '') !~* '^[0-9a-f]+$');
