"""Webhook endpoints of the notifier: enabled and sent to again, for a reason."""
