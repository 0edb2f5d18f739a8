"""Reconciliation: find trainings that ended without a webhook, by asking Replicate within a budget of calls."""
