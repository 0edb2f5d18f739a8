"""The operators' view: dead letters, replays, webhooks that never came."""
