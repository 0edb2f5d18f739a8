-- For pages of all users' models (services/state/store/snapshot.py), and of what has changed since a time.
--
-- A swap changes `activated_at`, so its update of `user_models` is no longer HOT: one more entry in each of two indexes.

CREATE INDEX user_models_by_time ON state.user_models (activated_at, user_id);
-- Withdrawals are few.
CREATE INDEX model_history_withdrawals_by_time ON state.model_history (at, user_id) WHERE cause = 'withdrawal';
CREATE INDEX model_history_withdrawals_by_user ON state.model_history (user_id, generation) WHERE cause = 'withdrawal';
