"""The operators' service: dead letters, replays, and reconciliation with Replicate."""
