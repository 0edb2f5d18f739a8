"""Commands for this machine: run everything, check it, set up servers, show settings."""
