-- Which trainings made a model: asked where Replicate's list, and not the training's own output, said which one it is.
CREATE INDEX trainings_by_model ON state.trainings (model) WHERE model IS NOT NULL;
