"""What the templates need, made of the APIs' answers. Pure."""
