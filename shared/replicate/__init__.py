"""Replicate's formats and API: trainings, logs, signatures, webhooks. Pure, except `client`, which calls the API."""
