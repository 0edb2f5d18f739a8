"""The console: the operators' screens, rendered on the server from what the APIs answer."""
