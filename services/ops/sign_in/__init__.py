"""One-time links that sign a person in to the console without typing a token."""
