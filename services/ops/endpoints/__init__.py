"""Webhook endpoints of the notifier: changed and sent to again, for a reason."""
