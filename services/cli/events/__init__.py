"""What goes over the wire: webhooks to send, events to hear, logs and outputs to read."""
