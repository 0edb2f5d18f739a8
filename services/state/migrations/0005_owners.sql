-- Whose a model is: the user's whose training proved it first. It can not be proved for another user, whatever the code
-- above does; a name without a version, on a destination that several users share, could be taken for theirs.
CREATE TABLE state.model_owners (
    model   state.model_ref PRIMARY KEY,
    user_id text NOT NULL REFERENCES state.users,
    UNIQUE (model, user_id)
);

INSERT INTO state.model_owners (model, user_id)
SELECT DISTINCT ON (model) model, user_id FROM state.trainings WHERE model IS NOT NULL ORDER BY model, number;

-- What was proved before is not looked into.
ALTER TABLE state.trainings ADD CONSTRAINT trainings_model_is_the_users
    FOREIGN KEY (model, user_id) REFERENCES state.model_owners (model, user_id) NOT VALID;

GRANT SELECT, INSERT ON state.model_owners TO modelswap_state;
