"""What is run and looked at on this machine: everything at once, servers, settings."""
