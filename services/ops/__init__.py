"""Where nothing is lost and repairing is calm: dead letters, replays, and webhooks that never came."""
