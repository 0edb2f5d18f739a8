"""Replays: send dead letters again, after a dry run, in steps, stopped when too many fail, and undone."""
