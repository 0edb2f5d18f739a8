"""Webhooks and events: sent and received; the filters for outputs and logs."""
