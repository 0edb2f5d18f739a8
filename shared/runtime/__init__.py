"""What a process stands on. Edge: settings, logs, broker, Postgres, health, lifecycle."""
