"""Runtime of all processes: settings, logs, broker, Postgres, health, lifecycle. Edge."""
